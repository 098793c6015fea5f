//! `ringway demo`: the gateway in front of a simulated provider, with nothing to configure.

use std::{net::SocketAddr, process::ExitCode};

use super::{house, sim_provider};
use crate::{
    config::{self, Process},
    shard::Choice,
};

/// Serves until a signal ends it.
pub(super) fn demo(listen: SocketAddr, choice: Choice) -> ExitCode {
    let provider = match sim_provider::start() {
        Ok(address) => address,
        Err(error) => {
            eprintln!("ringway: the simulated provider cannot listen: {error}");
            return ExitCode::FAILURE;
        }
    };
    let text = format!(
        "[server]\nlisten = [\"{listen}\"]\n[[provider]]\nname = \"sim\"\nbase_url = \"http://{provider}/v1\"\nauth = \"none\"\n"
    );
    let snapshot = match config::compile(&text, "the demo's configuration", &Process) {
        Ok(loaded) => loaded.snapshot,
        Err(complaints) => {
            eprint!("{complaints}");
            return ExitCode::FAILURE;
        }
    };
    match house::open(snapshot, choice, Box::new(|| Err(()))) {
        Ok(house) => {
            let gateway = house.listening.first().copied().unwrap_or(listen);
            println!("{}", welcome(gateway, provider));
            house.announce();
            house.serve()
        }
        Err(why) => {
            eprintln!("ringway: {why}");
            ExitCode::FAILURE
        }
    }
}

fn welcome(gateway: SocketAddr, provider: SocketAddr) -> String {
    // On one line, so that it can be copied with a double click or run by a script.
    let body = r#"{"model":"sim/hello","stream":true,"messages":[{"role":"user","content":"Hello!"}]}"#;
    let json = "content-type: application/json";
    format!(
        r#"Ringway serves http://{gateway}/v1 in front of a simulated provider at http://{provider}/v1.
Nothing leaves this machine, and no key is needed. Ctrl-C drains and ends it.

Stream a chat:

  curl -N http://{gateway}/v1/chat/completions -H '{json}' -d '{body}'

Python:

  from openai import OpenAI
  client = OpenAI(base_url="http://{gateway}/v1", api_key="none")
  print(client.chat.completions.create(model="sim/hello",
        messages=[{{"role": "user", "content": "Hello!"}}]).choices[0].message.content)

Node:

  import OpenAI from "openai";
  const client = new OpenAI({{ baseURL: "http://{gateway}/v1", apiKey: "none" }});
  const reply = await client.chat.completions.create({{
    model: "sim/hello", messages: [{{ role: "user", content: "Hello!" }}] }});
  console.log(reply.choices[0].message.content);
"#
    )
}
