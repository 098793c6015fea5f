//! How many tokens a text is, by its bytes alone: for what a provider does not report, and for what is not yet known.
//!
//! No vocabulary is held. Each character weighs what its script's characters weigh in OpenAI's `o200k_base`, told by its
//! first byte: a letter of English a fifth of a token, a Chinese one three quarters. Text of any kind comes within a
//! quarter of the truth; base64 and numbers do not.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::openai::{
    endpoint::Endpoint,
    members::{self, Member},
};
use crate::base::limits::{ESTIMATE_BYTES_MAX, FILE_TOKENS_ESTIMATE};

/// Thousandths of a token, so that parts add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MilliTokens(pub u64);

impl MilliTokens {
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Whole tokens, a token begun being one.
    pub fn tokens(self) -> u64 {
        self.0.div_ceil(1_000)
    }
}

const LETTER: u64 = 200;
/// Digits, punctuation, line breaks.
const MARK: u64 = 560;

/// What a character weighs that begins with this byte.
static WEIGHTS: [u16; 256] = {
    let mut weights = [0_u16; 256];
    let mut byte = 0;
    while byte < 256 {
        weights[byte] = match byte {
            0x20 | 0x41..=0x5a | 0x61..=0x7a => 200,
            0x00..=0x7f => 560,
            // Within a character.
            0x80..=0xbf => 0,
            // Latin with marks, Greek, Cyrillic, Hebrew and Arabic.
            0xc0..=0xc8 => 550,
            0xc9..=0xcf => 330,
            0xd0..=0xd1 => 255,
            0xd2..=0xdf => 290,
            // Indian scripts and Thai; dashes and quotes; Chinese and Japanese; Korean; full-width forms.
            0xe0 => 320,
            0xe1 | 0xe2 => 800,
            0xe3..=0xe9 => 750,
            0xea..=0xed => 640,
            0xee | 0xef => 800,
            // Emoji.
            _ => 1_500,
        };
        byte += 1;
    }
    weights
};

/// A text as it is read by people.
pub fn text(bytes: &[u8]) -> MilliTokens {
    MilliTokens(bytes.chunks(CHUNK).map(weigh).sum())
}

/// So many bytes at once that their letters can be counted in a byte.
const CHUNK: usize = 128;

fn weigh(chunk: &[u8]) -> u64 {
    // Without a table, and counted in bytes: the compiler makes vectors of it.
    let is_letter = |byte: u8| u8::from((byte | 0x20).wrapping_sub(b'a') < 26) | u8::from(byte == b' ');
    let (mut letters, mut all) = (0_u8, 0_u8);
    for &byte in chunk {
        letters = letters.wrapping_add(is_letter(byte));
        all |= byte;
    }
    if all.is_ascii() {
        let letters = u64::from(letters);
        return letters * LETTER + (chunk.len() as u64 - letters) * MARK;
    }
    chunk.iter().map(|byte| u64::from(WEIGHTS[usize::from(*byte)])).sum()
}

/// A JSON text: what stands in it as `\u4f60` weighs what the character does, and a file in base64 what an image does. Of a
/// long text the beginning speaks for the rest.
pub fn json(bytes: &[u8]) -> MilliTokens {
    // Short prose holds neither of what is searched for: one look tells.
    if bytes.len() <= ESTIMATE_BYTES_MAX && memchr::memchr2(b';', b'\\', bytes).is_none() {
        return text(bytes);
    }
    let (mut rest, mut files) = (bytes, 0_u64);
    let (mut sum, mut weighed, mut in_all) = (MilliTokens::default(), 0, 0);
    loop {
        let file = BASE64.find(rest);
        let (words, tail) = rest.split_at(file.unwrap_or(rest.len()));
        let seen = &words[..words.len().min(ESTIMATE_BYTES_MAX - weighed)];
        sum = sum.plus(unescaped(seen));
        weighed += seen.len();
        in_all += words.len();
        if file.is_none() {
            break;
        }
        files += 1;
        rest = &tail[memchr::memchr(b'"', tail).unwrap_or(tail.len())..];
    }
    let whole = u128::from(sum.0) * in_all as u128 / weighed.max(1) as u128;
    let whole = MilliTokens(u64::try_from(whole).unwrap_or(u64::MAX));
    whole.plus(MilliTokens(files.saturating_mul(FILE_TOKENS_ESTIMATE * 1_000)))
}

fn unescaped(seen: &[u8]) -> MilliTokens {
    let mut sum = MilliTokens::default();
    let mut from = 0;
    for at in ESCAPE.find_iter(seen) {
        let Some(escape) = seen.get(at..at + 6).filter(|_| at >= from) else { continue };
        sum = sum.plus(text(&seen[from..at])).plus(escaped(escape));
        from = at + 6;
    }
    sum.plus(text(&seen[from..]))
}

static BASE64: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(";base64,"));
static ESCAPE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\\u"));

/// `\uXXXX`, by the script of the character it stands for.
fn escaped(escape: &[u8]) -> MilliTokens {
    let digits = std::str::from_utf8(&escape[2..]).ok();
    let Some(unit) = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) else {
        return text(escape);
    };
    // Half of a pair, whose whole is an emoji.
    let Some(character) = char::from_u32(unit) else { return MilliTokens(750) };
    text(character.encode_utf8(&mut [0; 4]).as_bytes())
}

/// What an answer says, or one event of it, gathered from the members that carry text.
pub struct Heard {
    endpoint: Endpoint,
    /// Said in members of whole answers, and in parts of them.
    wholes: MilliTokens,
    deltas: MilliTokens,
    /// It is an event of the Responses API: its part is `delta`, and what else it says is repeated.
    is_part: bool,
}

impl Heard {
    pub fn of(endpoint: Endpoint) -> Self {
        Self { endpoint, wholes: MilliTokens::default(), deltas: MilliTokens::default(), is_part: false }
    }

    /// Adds the value that follows a member's name, if it is a text that this endpoint's answers say.
    pub fn add(&mut self, member: Member, after: &[u8]) {
        let sum = match Part::of(self.endpoint, member) {
            Some(Part::Whole) => &mut self.wholes,
            Some(Part::Delta) => &mut self.deltas,
            Some(Part::Kind) => {
                self.is_part = true;
                return;
            }
            None => return,
        };
        *sum = sum.plus(string(after).map_or_else(MilliTokens::default, spoken));
    }

    pub fn sum(self) -> MilliTokens {
        if self.is_part { self.deltas } else { self.wholes }
    }
}

/// What a member of an answer is to what is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Delta,
    /// It says that only deltas count.
    Kind,
}

impl Part {
    pub(super) fn of(endpoint: Endpoint, member: Member) -> Option<Self> {
        match (endpoint, member) {
            (Endpoint::ChatCompletions, Member::Content | Member::Arguments)
            | (Endpoint::Completions, Member::Text)
            | (Endpoint::Responses, Member::Text | Member::Arguments) => Some(Self::Whole),
            (Endpoint::Responses, Member::Delta) => Some(Self::Delta),
            (Endpoint::Responses, Member::ResponseKind) => Some(Self::Kind),
            _ => None,
        }
    }
}

/// What a whole answer says.
pub fn said(endpoint: Endpoint, answer: &[u8]) -> MilliTokens {
    let mut heard = Heard::of(endpoint);
    members::of(endpoint, answer).for_each(|(member, after)| heard.add(member, after));
    heard.sum()
}

/// The inside of a string. Few are long, and few have escapes.
fn spoken(Inside { bytes, has_escapes }: Inside<'_>) -> MilliTokens {
    if has_escapes || bytes.len() > CHUNK { json(bytes) } else { text(bytes) }
}

pub(super) struct Inside<'a> {
    pub(super) bytes: &'a [u8],
    has_escapes: bool,
}

/// The string that follows a member's name.
pub(super) fn string(after: &[u8]) -> Option<Inside<'_>> {
    let string = members::value(after)?.strip_prefix(b"\"")?;
    let (mut end, mut has_escapes) = (0, false);
    loop {
        end += memchr::memchr2(b'"', b'\\', string.get(end..)?)?;
        if string[end] == b'"' {
            return Some(Inside { bytes: string.get(..end)?, has_escapes });
        }
        has_escapes = true;
        end += 2;
    }
}

/// Whatever the bytes, the estimate is finite, more than nothing for something, and the parts of a text are the whole.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_estimate(data: &[u8]) {
    let whole = text(data);
    assert!(whole.0 <= data.len() as u64 * 1_500);
    let (left, right) = data.split_at(data.len() / 2);
    assert_eq!(text(left).plus(text(right)), whole);
    json(data);
    for endpoint in Endpoint::ALL {
        assert!(said(endpoint, data).0 <= 2 * (data.len() as u64) * 1_500);
    }
}

#[cfg(test)]
pub(crate) use self::tests::CORPUS;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json::mutate;

    /// Texts and their tokens in `o200k_base`, as tiktoken 0.14 counts them.
    pub(crate) const CORPUS: &[(&str, u64)] = &[
        (
            "The gateway relays each answer out of the buffer it was read into. Nothing is copied on the way, \
             and nothing is retried once the first byte has left for the client. If the provider breaks off, the \
             client is told so inside the stream.",
            52,
        ),
        (
            "Hi! Could you summarise the attached report for me, please? I need three short bullet points about \
             revenue, costs and staffing, and one sentence on what to do next.",
            36,
        ),
        (
            "fn fold(items: &[u64]) -> Option<u64> {\n    let mut sum = 0u64;\n    for item in items {\n        \
             sum = sum.checked_add(*item)?;\n    }\n    Some(sum)\n}\n",
            46,
        ),
        (
            "{\"model\":\"gpt-4o\",\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful \
             assistant.\"},{\"role\":\"user\",\"content\":\"What is the capital of \
             France?\"}],\"temperature\":0.2,\"stream\":true}",
            50,
        ),
        (
            "网关把每个请求转发给上游提供商，并在第一个字节发送给客户端之后不再重试。如果上游在中途断开，客户端会在流中收到一个错误事件。",
            46,
        ),
        (
            "ゲートウェイは各リクエストを上流のプロバイダーに転送し、最初のバイトがクライアントに送られた後は再試行しません。途中で切断された場合は、ストリームの中でエラーが通知されます。",
            67,
        ),
        (
            "게이트웨이는 각 요청을 상위 제공자에게 전달하며 첫 번째 바이트가 클라이언트로 전송된 후에는 다시 시도하지 않습니다. 연결이 중간에 끊어지면 스트림 안에서 오류가 전달됩니다.",
            54,
        ),
        (
            "Шлюз передаёт каждый запрос поставщику и не повторяет его после того, как первый байт отправлен \
             клиенту. Если соединение прервётся, клиент узнает об этом из самого потока.",
            45,
        ),
        (
            "Das Gateway reicht jede Antwort aus dem Puffer weiter, in den sie gelesen wurde. Unterwegs wird \
             nichts kopiert, und nach dem ersten Byte wird nichts wiederholt. Bricht der Anbieter ab, erfährt es \
             der Empfänger.",
            47,
        ),
        (
            "La passerelle transmet chaque réponse depuis le tampon où elle a été lue. Rien n'est copié en \
             chemin, et rien n'est réessayé après l'envoi du premier octet au client.",
            42,
        ),
        (
            "تنقل البوابة كل طلب إلى المزود ولا تعيد المحاولة بعد إرسال البايت الأول إلى العميل. إذا انقطع \
             الاتصال فسيعرف العميل ذلك من داخل التدفق نفسه.",
            39,
        ),
        (
            "गेटवे हर अनुरोध को प्रदाता तक पहुँचाता है और ग्राहक को पहला बाइट भेजने के बाद दोबारा प्रयास नहीं \
             करता। यदि संपर्क टूट जाए तो ग्राहक को धारा में ही बताया जाता है।",
            45,
        ),
        ("เกตเวย์ส่งต่อคำขอแต่ละรายการไปยังผู้ให้บริการ และจะไม่ลองใหม่หลังจากส่งไบต์แรกไปยังลูกค้าแล้ว", 34),
        ("Great job! 🎉🎉 The build is green ✅ and the team is happy 😀🚀. See you tomorrow 👋", 26),
        (
            "date,region,units,price\n2026-01-03,EU,1204,19.99\n2026-01-04,US,87,24.50\n2026-01-05,APAC,3310,17.25\n",
            56,
        ),
        (
            "## Findings\n\n- **Latency** fell by 12 % (p99: 41 ms → 36 ms).\n- Errors: 3 of 10,000 \
             requests.\n\n| core | req/s |\n|---|---|\n| 0 | 21,400 |\n| 1 | 20,950 |\n",
            65,
        ),
        (
            "import httpx\n\nclass Client:\n    def __init__(self, base_url: str, key: str) -> None:\n        \
             self._http = httpx.Client(base_url=base_url, headers={\"authorization\": f\"Bearer {key}\"})\n\n    \
             def models(self) -> list[str]:\n        answer = \
             self._http.get(\"/v1/models\").raise_for_status()\n        return [model[\"id\"] for model in \
             answer.json()[\"data\"]]\n",
            92,
        ),
    ];

    #[track_caller]
    fn check_within_a_quarter(estimate: MilliTokens, tokens: u64, of: &str) {
        let off = estimate.0.abs_diff(tokens * 1_000);
        assert!(off * 4 <= tokens * 1_000, "{} where {tokens}: {of}", estimate.tokens());
    }

    #[test]
    fn text_of_every_script_comes_within_a_quarter() {
        let (mut all, mut sum) = (MilliTokens::default(), 0);
        for (of, tokens) in CORPUS {
            check_within_a_quarter(text(of.as_bytes()), *tokens, of);
            all = all.plus(text(of.as_bytes()));
            sum += tokens;
        }
        assert!(
            all.0.abs_diff(sum * 1_000) * 10 <= sum * 1_000,
            "together within a tenth: {} of {sum}",
            all.tokens()
        );
    }

    #[test]
    fn an_escaped_text_weighs_what_it_says() {
        for (of, tokens) in CORPUS.iter().filter(|(of, _)| !of.is_ascii()) {
            let escaped: String = of.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            check_within_a_quarter(json(escaped.as_bytes()), *tokens, of);
        }
        assert_eq!(json(b"\\u00"), text(b"\\u00"));
        assert_eq!(json(b"\\uzzzz"), text(b"\\uzzzz"));
    }

    #[test]
    fn what_is_too_long_is_told_by_its_beginning() {
        let long = b"word ".repeat(ESTIMATE_BYTES_MAX);
        assert_eq!(json(&long), text(&long));
    }

    #[test]
    fn a_file_weighs_what_an_image_does_however_long_it_is() {
        let file = MilliTokens(FILE_TOKENS_ESTIMATE * 1_000);
        let of =
            |bytes: usize| format!(r#"{{"url":"data:image/png;base64,{}"}}"#, "iVBORw0K".repeat(bytes / 8));
        let around = text(br#"{"url":"data:image/png"}"#);
        for bytes in [8, 80, 8 * ESTIMATE_BYTES_MAX] {
            assert_eq!(json(of(bytes).as_bytes()), around.plus(file), "{bytes}");
        }
        let two = format!("{}{}", of(80), of(800));
        assert_eq!(json(two.as_bytes()), around.plus(around).plus(file).plus(file));
        assert_eq!(json(b";base64,torn"), file);
    }

    #[track_caller]
    fn check_said(endpoint: Endpoint, answer: &str, expect: &str) {
        assert_eq!(said(endpoint, answer.as_bytes()), text(expect.as_bytes()), "{answer}");
    }

    #[test]
    fn only_what_an_answer_says_is_counted() {
        use Endpoint::{ChatCompletions, Completions, Embeddings, Responses};
        check_said(ChatCompletions, r#"{"id":"x","choices":[{"delta":{"content":"Hi you"}}]}"#, "Hi you");
        check_said(
            ChatCompletions,
            r#"{"choices":[{"delta":{"content":null,"reasoning_content" : "ab"}}]}"#,
            "ab",
        );
        check_said(ChatCompletions, r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#, "");
        check_said(
            ChatCompletions,
            r#"{"choices":[{"message":{"content":"say \"content\": \"no\""}},{"message":{"tool_calls":[{"function":{"arguments":"{}"}}]}}]}"#,
            r#"say \"content\": \"no\"{}"#,
        );
        check_said(Completions, r#"{"choices":[{"text":"a b","index":0}]}"#, "a b");
        check_said(Responses, r#"{"type":"response.output_text.delta","delta":"abc"}"#, "abc");
        check_said(Responses, r#"{"type":"response.output_text.done","text":"abc"}"#, "");
        check_said(
            Responses,
            r#"{"object":"response","output":[{"content":[{"type":"output_text","text":"abc"}]}]}"#,
            "abc",
        );
        check_said(Embeddings, r#"{"content":"abc","text":"abc"}"#, "");
        check_said(ChatCompletions, r#"{"choices":[{"delta":{"content":"torn"#, "");
    }

    #[test]
    fn mutated_texts_never_panic() {
        let seeds: [&[u8]; 2] = [
            r#"{"choices":[{"delta":{"content":"Hi \u4f60好 \" x","arguments":"{}"}}]}"#.as_bytes(),
            r#"{"type":"response.output_text.delta","delta":"ab","text":"c 🎉"}"#.as_bytes(),
        ];
        mutate::each(&seeds, 4_000, fuzz_estimate);
    }
}
