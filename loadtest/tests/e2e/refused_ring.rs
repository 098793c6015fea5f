//! Where the kernel refuses io_uring the gateway says why and serves with epoll, or ends if io_uring was demanded.
//!
//! The gateway runs as a user without CAP_IPC_LOCK: root's rings are charged to nobody's limit.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use crate::support::{Client, Program, Provider, binary, chat, own_address};

/// Forbids io_uring_setup (425 on every architecture) with EPERM, as container runtimes do, then becomes the program.
const SECCOMP: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def op(code, jt, jf, k): return struct.pack("HBBI", code, jt, jf, k)
program = op(0x20, 0, 0, 0) + op(0x15, 0, 1, 425) + op(0x06, 0, 0, 0x00050000 | 1) + op(0x06, 0, 0, 0x7fff0000)
buffer = ctypes.create_string_buffer(program)
fprog = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, fprog, 0, 0):
    sys.exit("cannot set the filter: %d" % ctypes.get_errno())
os.execvp(sys.argv[1], sys.argv[1:])
"#;

/// A directory that an unprivileged user can read, with the program and a configuration in it.
struct Stage(PathBuf);

impl Stage {
    fn set(provider: &Provider, name: &str) -> (Self, String, std::net::SocketAddr) {
        let host = own_address();
        let folder = std::env::temp_dir().join(format!("ringway-e2e-{name}-{host}"));
        fs::create_dir_all(&folder).expect("a temporary folder can be made");
        let program = folder.join("ringway");
        fs::copy(binary("ringway"), &program).expect("the program can be copied");
        for path in [&folder, &program] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        }
        let config = folder.join("ringway.toml");
        let text = format!(
            "[server]\nlisten = [\"{host}:8080\"]\ncores = 1\n[admin]\nlisten = \"off\"\n\
             [[provider]]\nname = \"sim\"\nbase_url = \"http://{}/v1\"\nauth = \"none\"\n",
            provider.address
        );
        fs::write(&config, text).expect("a temporary file can be written");
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).expect("it is ours");
        (Self(folder), config.to_str().expect("a plain path").to_owned(), (host, 8080).into())
    }

    fn program(&self) -> String {
        self.0.join("ringway").to_str().expect("a plain path").to_owned()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The words that run a command as nobody, if we are root and would be exempt from limits.
fn as_nobody() -> Vec<String> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let words: &[&str] = if is_root {
        &[
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
        ]
    } else {
        &["env"]
    };
    words.iter().map(|&word| word.to_owned()).collect()
}

/// What a run under `refusal` says, as far as `auto` and a demand for io_uring are concerned.
#[track_caller]
fn check(name: &str, refusal: &[&str], word: &str) {
    let provider = Provider::start();
    let (stage, config, address) = Stage::set(&provider, name);
    let run = |backend: &str| {
        // The refusal first: nobody may not be able to run what makes it.
        let mut words: Vec<String> = refusal.iter().map(|&word| word.to_owned()).collect();
        words.extend(as_nobody());
        words.extend([
            stage.program(),
            "run".into(),
            "-c".into(),
            config.clone(),
            "--backend".into(),
            backend.into(),
        ]);
        words
    };

    let demanded = run("io_uring");
    let output = Command::new(&demanded[0]).args(&demanded[1..]).output().expect("it can be started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it served on a ring that was to be refused: {said}");
    assert!(said.contains("io_uring is refused") && said.contains(word), "{said}");

    let auto = run("auto");
    let words: Vec<&str> = auto[1..].iter().map(String::as_str).collect();
    let mut program = Program::start(&auto[0], &words);
    program.line("why it is not on a ring", |line| {
        (line.contains("io_uring is refused") && line.contains("epoll")).then_some(())
    });
    program.line("where it listens", |line| line.contains("listening on").then_some(()));
    Client::connect(address).ask(chat("sim", false)).expect(200);
}

#[test]
fn too_little_locked_memory() {
    check("memlock", &["prlimit", "--memlock=0:0"], "locked memory");
}

#[test]
fn a_seccomp_filter() {
    check("seccomp", &["python3", "-c", SECCOMP], "seccomp");
}
