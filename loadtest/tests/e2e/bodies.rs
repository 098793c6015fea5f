//! Long bodies: judged read by read as they come, and sent on as they came but for the model.

use ringway_load::provider::fnv;

use crate::support::{Answer, Gateway, Provider, Setup, model};

const MIB: usize = 1 << 20;
const PROSE: &str = "The quick brown fox jumps over the lazy dog, and the dog does not mind. ";
const ESCAPES: &str = r#"{\"path\": \"C:\\\\dir\",\n\t\"caf\u00e9\": \"\ud83d\ude00\"}\n"#;
const JSON: &str = "application/json";
const FORM: &str = "multipart/form-data; boundary=XX";

/// A chat request of about `bytes` that names its model last.
fn chat(bytes: usize, text: &str, model: &str) -> String {
    let text = text.repeat(bytes / text.len());
    format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"model":"{model}"}}"#)
}

fn form(bytes: usize, model: &str) -> String {
    let sound = "\r\n--X \0".repeat(bytes / 7);
    format!(
        "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n{sound}\r\n\
         --XX\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--XX--\r\n"
    )
}

fn sized(path: &str, media_type: &str, body: &str) -> String {
    let bytes = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: g\r\nContent-Type: {media_type}\r\nContent-Length: {bytes}\r\n\r\n{body}"
    )
}

/// In chunks of an odd size, so that none ends where a read does.
fn chunked(path: &str, media_type: &str, body: &str) -> Vec<u8> {
    let mut out = format!(
        "POST {path} HTTP/1.1\r\nHost: g\r\nContent-Type: {media_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for chunk in body.as_bytes().chunks(70_001) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// Sends from a thread of its own, as the gateway may answer before it has read everything.
fn upload(gateway: &Gateway, request: Vec<u8>) -> Answer {
    let mut client = gateway.client();
    let mut sender = client.twin();
    let sending = std::thread::spawn(move || sender.offer(request));
    let answer = client.answer();
    let _ = sending.join();
    answer
}

#[test]
fn a_long_body_reaches_the_provider_as_it_was_but_for_the_model() {
    let provider = Provider::start();
    let gateway = Gateway::with(&provider, &Setup::default());
    let chat_path = "/v1/chat/completions";
    let sound_path = "/v1/audio/transcriptions";
    for (name, path, media_type, body) in [
        ("named-prose", chat_path, JSON, chat(8 * MIB, PROSE, "MODEL")),
        ("named-escapes", chat_path, JSON, chat(8 * MIB, ESCAPES, "MODEL")),
        ("named-brief", chat_path, JSON, chat(300 << 10, ESCAPES, "MODEL")),
        ("named-form", sound_path, FORM, form(8 * MIB, "MODEL")),
    ] {
        for (way, is_chunked) in [("sized", false), ("chunked", true)] {
            let script = format!("{name}-{way}");
            let sent = body.replace("MODEL", &model(&script));
            let request = if is_chunked {
                chunked(path, media_type, &sent)
            } else {
                sized(path, media_type, &sent).into()
            };
            upload(&gateway, request).expect(200);
            let expect = format!("{:016x}", fnv(body.replace("MODEL", &script).as_bytes()));
            assert!(provider.seen().iter().any(|seen| seen.0["body_fnv"] == *expect), "{script}");
        }
    }
}

#[test]
fn what_is_wrong_at_the_end_of_a_long_body_is_refused_as_in_a_short_one() {
    let provider = Provider::start();
    let gateway = Gateway::with(&provider, &Setup::default());
    let whole = chat(2 * MIB, ESCAPES, &model("sim"));
    let inside = whole.len() - 40;
    for (body, word) in [
        (format!("{whole}{{}}"), format!("byte {}", whole.len())),
        (whole[..whole.len() - 1].to_owned(), format!("byte {}", whole.len() - 1)),
        (chat(2 * MIB, ESCAPES, "a b"), "'model' must be".to_owned()),
        (whole.replace("\"model\"", "\"Model\""), "letter case".to_owned()),
        (format!("{}\u{1}{}", &whole[..inside], &whole[inside..]), "not valid JSON".to_owned()),
    ] {
        for request in
            [sized("/v1/chat/completions", JSON, &body).into(), chunked("/v1/chat/completions", JSON, &body)]
        {
            let answer = upload(&gateway, request);
            answer.refusal(400);
            assert!(answer.text().contains(&word), "{word}: {}", answer.text());
        }
    }
    let form = form(2 * MIB, &model("sim"));
    for body in [form.replace("\"model\"", "\"Model\""), form[..form.len() - 6].to_owned()] {
        upload(&gateway, sized("/v1/audio/transcriptions", FORM, &body).into()).refusal(400);
    }
    assert!(provider.seen().iter().all(|seen| seen.0["method"] != "POST"), "none of them was sent on");
}
