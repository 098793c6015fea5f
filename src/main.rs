//! The program: `ringway run`, `ringway demo`, `ringway check`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringway::cli::main()
}
