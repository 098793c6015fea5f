//! The demo's provider: a small OpenAI endpoint on loopback, on plain threads, that answers with what it was asked.
//!
//! It serves the demo and nothing else: its only client is this process's own gateway, so it reads what that writes and
//! no more.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

/// Between two words of a stream: as fast as a quick model, slow enough to be seen.
const WORD_TIME: Duration = Duration::from_millis(60);

/// Starts it on a free port.
pub(super) fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::Builder::new().name("sim-provider".to_owned()).spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection that fails is the gateway's to notice.
            std::thread::spawn(move || drop(serve(stream)));
        }
    })?;
    Ok(address)
}

/// Serves one connection until it closes.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some((path, body)) = request(&mut reader)? {
        let request: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        match path.as_str() {
            "/v1/models" => answer(&mut stream, &models())?,
            "/v1/chat/completions" if request["stream"] == true => chat_stream(&mut stream, &request)?,
            "/v1/chat/completions" => answer(&mut stream, &chat(&request))?,
            "/v1/embeddings" => answer(&mut stream, &embedding(&request))?,
            _ => refuse(&mut stream, &path)?,
        }
    }
    Ok(())
}

fn request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((path, body)))
}

fn answer(stream: &mut TcpStream, value: &Value) -> io::Result<()> {
    let body = value.to_string();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn refuse(stream: &mut TcpStream, path: &str) -> io::Result<()> {
    let message = format!("The demo's provider has no {path}.");
    let body = json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": "unknown_url"}});
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn models() -> Value {
    json!({"object": "list", "data": [{"id": "hello", "object": "model", "created": 1_700_000_000, "owned_by": "sim"}]})
}

/// What it says: the caller's last words, and where they came through.
fn words(request: &Value) -> String {
    let last = request["messages"].as_array().and_then(|messages| messages.last());
    let said = last.and_then(|message| message["content"].as_str()).unwrap_or("nothing");
    format!("You said: {said} I am a simulated provider, and these words came through Ringway one by one.")
}

fn usage(request: &Value, reply: &str) -> Value {
    let prompt = request["messages"].to_string().len() / 4;
    let completion = reply.split(' ').count();
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

fn chat(request: &Value) -> Value {
    let reply = words(request);
    json!({
        "id": "chatcmpl-demo", "object": "chat.completion", "created": 1_700_000_000, "model": request["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": null,
                     "message": {"role": "assistant", "content": reply, "refusal": null}}],
        "usage": usage(request, &reply),
    })
}

fn embedding(request: &Value) -> Value {
    json!({
        "object": "list", "model": request["model"],
        "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2, 0.3]}],
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    })
}

fn chat_stream(stream: &mut TcpStream, request: &Value) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )?;
    let reply = words(request);
    let chunk = |choices: Value| {
        json!({"id": "chatcmpl-demo", "object": "chat.completion.chunk", "created": 1_700_000_000,
               "model": request["model"], "choices": choices})
    };
    for word in reply.split_inclusive(' ') {
        event(
            stream,
            &chunk(json!([{"index": 0, "delta": {"content": word}, "finish_reason": null}])).to_string(),
        )?;
        pause(WORD_TIME);
    }
    event(stream, &chunk(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}])).to_string())?;
    if request["stream_options"]["include_usage"] == true {
        let mut last = chunk(json!([]));
        last["usage"] = usage(request, &reply);
        event(stream, &last.to_string())?;
    }
    event(stream, "[DONE]")?;
    stream.write_all(b"0\r\n\r\n")
}

fn event(stream: &mut TcpStream, data: &str) -> io::Result<()> {
    let event = format!("data: {data}\n\n");
    stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())
}

#[expect(clippy::disallowed_methods, reason = "the pace of a simulated model, not a wait for anything")]
fn pause(span: Duration) {
    std::thread::sleep(span);
}
