//! One event as the bytes of a Server-Sent Events stream, in each of the dialects that providers speak.

use super::script::Script;

/// An event before it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Its `event:` line; empty for none.
    pub name: &'static str,
    pub data: String,
    /// Due one gap after its predecessor, not together with it.
    pub paced: bool,
}

/// The bytes of an event, and of the comment that may stand before it.
pub(super) fn event_bytes(event: &Event, script: &Script, index: usize) -> Vec<u8> {
    let end = match (script.crlf, script.cr) {
        (true, _) => "\r\n",
        (false, true) => "\r",
        (false, false) => "\n",
    };
    let space = if script.nospace { "" } else { " " };
    let mut text = String::with_capacity(event.data.len() + 16);
    if script.bom && index == 0 {
        text.push('\u{feff}');
    }
    if script.comments && index.is_multiple_of(3) {
        text += &format!(": PROCESSING{end}{end}");
    }
    match event.name {
        "" if script.named => text += &format!("event:{space}message{end}"),
        "" => {}
        name => text += &format!("event:{space}{name}{end}"),
    }
    for line in lines(&event.data, script.multiline) {
        text += &format!("data:{space}{line}{end}");
    }
    text += end;
    text.into_bytes()
}

/// JSON may be broken after its first and before its last brace; the receiver joins the lines with LF.
fn lines(data: &str, multiline: bool) -> Vec<&str> {
    match data.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(inside) if multiline => vec!["{", inside, "}"],
        _ => vec![data],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(words: &str, name: &'static str, data: &str, expect: &str) {
        let script = Script::parse(&format!("sim,{words}")).unwrap_or_default();
        let event = Event { name, data: data.into(), paced: true };
        assert_eq!(String::from_utf8(event_bytes(&event, &script, 0)).as_deref(), Ok(expect));
    }

    #[test]
    fn each_dialect_is_spoken() {
        check("", "", "{}", "data: {}\n\n");
        check("crlf", "", "{}", "data: {}\r\n\r\n");
        check("cr", "", "{}", "data: {}\r\r");
        check("nospace", "x", "{}", "event:x\ndata:{}\n\n");
        check("named", "", "{}", "event: message\ndata: {}\n\n");
        check("comments", "", "{}", ": PROCESSING\n\ndata: {}\n\n");
        check("multiline", "", "{\"a\":1}", "data: {\ndata: \"a\":1\ndata: }\n\n");
        check("multiline", "", "[DONE]", "data: [DONE]\n\n");
        check("bom", "", "{}", "\u{feff}data: {}\n\n");
    }
}
