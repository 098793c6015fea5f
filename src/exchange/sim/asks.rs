//! What clients ask, well and badly.

use std::rc::Rc;

use super::{
    chance::Chance,
    faults::Fault,
    kept::Wish,
    script::{Script, Wanted},
    world::SimWorld,
};

/// What must come of a request, if nothing goes wrong on the way.
#[derive(Clone, Debug)]
pub(super) enum Hope {
    /// The provider's answer.
    Answer(Rc<Script>),
    /// A refusal with one of these codes.
    Refusal(&'static [&'static str]),
    /// An answer of our own.
    Own(u16, &'static [u8]),
}

#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) id: usize,
    pub(super) head: Vec<u8>,
    pub(super) body: Vec<u8>,
    /// The body without its framing.
    pub(super) said: Vec<u8>,
    pub(super) hope: Hope,
    pub(super) is_head: bool,
    /// The client waits for `100 Continue`, or at least says so.
    pub(super) fault: Option<Fault>,
    pub(super) http10: bool,
    /// The client wants to go on after the answer.
    pub(super) keeps: bool,
    /// What its head says of logs; `None`: its head cannot be understood.
    pub(super) wish: Option<Wish>,
}

impl Ask {
    pub(super) fn new(world: &SimWorld, id: usize) -> Self {
        let chance = world.sim.chance();
        match chance.of(0..14) {
            0 => own(chance, id),
            1 => bad(chance, id),
            _ => good(world, id),
        }
    }
}

const ENDPOINTS: [&str; 8] = [
    "/chat/completions",
    "/chat/completions",
    "/chat/completions",
    "/chat/completions",
    "/completions",
    "/responses",
    "/embeddings",
    "/audio/speech",
];

fn good(world: &SimWorld, id: usize) -> Ask {
    let chance = world.sim.chance();
    let endpoint = chance.pick(&ENDPOINTS);
    let stream = matches!(endpoint, "/chat/completions" | "/completions" | "/responses") && !chance.one_in(3);
    let choices = if endpoint == "/chat/completions" && chance.one_in(4) { chance.of(2..4) } else { 1 };
    let provider = match chance.of(0..20) {
        0 => "nameless",
        1 => "refusing",
        2 => "silent",
        3..8 => "plain",
        _ => "asks",
    };
    let takes_options = stream && endpoint != "/responses";
    let asked = takes_options && chance.one_in(3);
    let usage = asked || (takes_options && provider == "asks");
    let wanted = Wanted { id, endpoint, stream, choices, usage, strip: usage && !asked };
    let script = Rc::new(Script::new(chance, wanted));
    world.scripts.borrow_mut().insert(id, script.clone());

    let mut body = format!(r#"{{"model":"{provider}/s{id}""#);
    if stream || chance.one_in(4) {
        body.push_str(&format!(r#","stream":{stream}"#));
    }
    if asked {
        body.push_str(r#", "stream_options": {"include_usage": true}"#);
    }
    if choices > 1 {
        body.push_str(&format!(r#","n":{choices}"#));
    }
    let filler = match chance.of(0..12) {
        0 => chance.of(17 << 10..40 << 10),
        1 => chance.of(60 << 10..120 << 10),
        _ => chance.of(0..600),
    };
    body.push_str(&format!(r#","filler":"{}","last":{id}}}"#, "f".repeat(filler)));

    let hope = match provider {
        "nameless" | "refusing" => Hope::Refusal(&["upstream_unreachable"]),
        "silent" => Hope::Refusal(&["upstream_timeout"]),
        _ => Hope::Answer(script),
    };
    let http10 = chance.one_in(10);
    let ask = Ask { http10, ..Ask::bare(id, hope) };
    ask.written(chance, &format!("POST /v1{endpoint}"), "application/json", body.into_bytes())
}

fn own(chance: &Chance, id: usize) -> Ask {
    let (line, hope) = match chance.of(0..6) {
        0 => ("GET /v1/models", Hope::Own(200, super::world::MODELS)),
        1 => ("HEAD /v1/models", Hope::Own(200, b"")),
        2 => ("GET /v1/models/asks%2Fm", Hope::Own(200, br#"{"id":"asks/m"}"#)),
        3 => ("OPTIONS /v1/chat/completions", Hope::Own(204, b"")),
        4 => ("GET /v1/models/none", Hope::Refusal(&["model_not_found"])),
        _ => ("GET /v1/chat/completions", Hope::Refusal(&["method_not_supported"])),
    };
    let is_head = line.starts_with("HEAD");
    Ask { is_head, ..Ask::bare(id, hope) }.written(chance, line, "", Vec::new())
}

fn bad(chance: &Chance, id: usize) -> Ask {
    let post = "POST /v1/chat/completions";
    let json = "application/json";
    let hope = |codes| Ask { fault: Some(Fault::BadRequest), ..Ask::bare(id, Hope::Refusal(codes)) };
    match chance.of(0..8) {
        0 => hope(&["invalid_json"]).written(chance, post, json, br#"{"model":"asks/x",}"#.to_vec()),
        1 => hope(&["model_not_found"]).written(chance, post, json, br#"{"model":"nobody/x"}"#.to_vec()),
        2 => hope(&["unknown_url"]).written(chance, "POST /v2/chat", json, b"{}".to_vec()),
        3 => hope(&["unsupported_content_type"]).written(chance, post, "text/plain", b"{}".to_vec()),
        4 => hope(&["request_too_large"]).written(chance, post, json, vec![b' '; 160 << 10]),
        5 => {
            let head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\
                         transfer-encoding: chunked\r\n\r\n0\r\n\r\n";
            Ask { head: head.to_vec(), keeps: false, ..hope(&["invalid_http"]) }
        }
        6 => Ask {
            head: b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n".to_vec(),
            keeps: false,
            fault: Some(Fault::SlowHead),
            ..hope(&["request_timeout"])
        },
        _ => {
            let mut ask = hope(&["request_timeout"]).written(chance, post, json, vec![b' '; 30_000]);
            ask.body.truncate(chance.of(0..30_000));
            Ask { keeps: false, fault: Some(Fault::SlowBody), ..ask }
        }
    }
}

impl Ask {
    fn bare(id: usize, hope: Hope) -> Self {
        Self {
            id,
            head: Vec::new(),
            body: Vec::new(),
            said: Vec::new(),
            hope,
            is_head: false,
            fault: None,
            http10: false,
            keeps: true,
            wish: None,
        }
    }

    fn written(self, chance: &Chance, line: &str, media_type: &str, body: Vec<u8>) -> Self {
        let version = if self.http10 { "1.0" } else { "1.1" };
        let mut head = format!("{line} HTTP/{version}\r\nHost: gateway\r\n");
        let wish = Wish::draw(chance);
        head.push_str(&wish.fields(chance, self.id));
        head.push_str("x-private: 1\r\nUser-Agent: sim\r\n");
        let keeps = self.keeps && !chance.one_in(6);
        match (keeps, self.http10) {
            (false, false) => head.push_str("Connection: close\r\n"),
            (true, true) => head.push_str("Connection: keep-alive\r\n"),
            _ => {}
        }
        if !media_type.is_empty() {
            head.push_str(&format!("Content-Type: {media_type}\r\n"));
        }
        let (said, mut framed) = (body.clone(), Vec::new());
        if !body.is_empty() {
            if !self.http10 && chance.one_in(6) {
                head.push_str("Expect: 100-continue\r\n");
            }
            if !self.http10 && chance.one_in(4) {
                head.push_str("Transfer-Encoding: chunked\r\n");
                let mut at = 0;
                while at < body.len() {
                    let piece = chance.of(1..(body.len() - at).min(20_000) + 1);
                    framed.extend_from_slice(format!("{piece:X}\r\n").as_bytes());
                    framed.extend_from_slice(&body[at..at + piece]);
                    framed.extend_from_slice(b"\r\n");
                    at += piece;
                }
                framed.extend_from_slice(b"0\r\n\r\n");
            } else {
                head.push_str(&format!("Content-Length: {}\r\n", body.len()));
                framed = body;
            }
        }
        head.push_str("\r\n");
        Self { head: head.into_bytes(), body: framed, said, keeps, wish: Some(wish), ..self }
    }
}
