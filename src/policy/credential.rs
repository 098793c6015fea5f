//! Which of a request's headers says who is calling.
//!
//! `esa_aigw_auth` (or `esa-aigw-auth`) decides where it is present. Whatever else a client's own SDK sends as a key is
//! dropped unread, unless it has the form of a gateway token: two of those that differ are never resolved in favour of
//! either, because the next reader could choose the other.

use crate::wire::{
    http1::{fields::Field, known::Known},
    token::{self, Token},
};

/// What a request shows of its caller.
#[derive(Debug, PartialEq, Eq)]
pub enum Presented<'h> {
    /// No gateway token anywhere.
    None,
    /// This one, and no other. Nobody has looked yet whether it is anyone's.
    One(Token<'h>),
    /// Two that differ, or one header twice with different values.
    Conflict,
    /// The header that decides holds no token.
    Malformed,
}

/// Where a credential may stand. A name in both of the deciding spellings is two headers.
const NAMES: [(&str, Kind); 5] = [
    ("authorization", Kind::Bearer),
    ("esa_aigw_auth", Kind::Deciding),
    ("esa-aigw-auth", Kind::Deciding),
    ("x-api-key", Kind::Plain),
    ("api-key", Kind::Plain),
];

const AUTHORIZATION: usize = 0;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `Bearer <token>`, and nothing else may stand here.
    Deciding,
    /// `Bearer <token>`, or something that is not ours.
    Bearer,
    /// The token alone, or something that is not ours.
    Plain,
}

/// Looks at every field of a head once. `bytes` is what the fields' places are in.
pub fn presented<'h>(fields: &[Field], bytes: &'h [u8]) -> Presented<'h> {
    let mut seen: [Option<&[u8]>; NAMES.len()] = [None; NAMES.len()];
    let (mut found, mut is_malformed, mut differ) = (None, false, false);
    for field in fields {
        let Some(index) = place(field.known, field.name.of(bytes)) else { continue };
        let value = field.value.of(bytes);
        if let Some(before) = seen[index] {
            differ |= before != value;
            continue;
        }
        seen[index] = Some(value);
        let kind = NAMES[index].1;
        let text = if kind == Kind::Plain { Some(value) } else { bearer(value) };
        match (text.and_then(token::parse), &found) {
            (Some(token), None) => found = Some(token),
            (Some(token), Some(before)) => differ |= token != *before,
            (None, _) => is_malformed |= kind == Kind::Deciding,
        }
    }
    match found {
        _ if differ => Presented::Conflict,
        _ if is_malformed => Presented::Malformed,
        Some(token) => Presented::One(token),
        None => Presented::None,
    }
}

fn place(known: Known, name: &[u8]) -> Option<usize> {
    match known {
        Known::Authorization => return Some(AUTHORIZATION),
        Known::Other => {}
        _ => return None,
    }
    // The lengths are few, and settle nearly every other name at once.
    if !matches!(name.len(), 7 | 9 | 13) {
        return None;
    }
    NAMES.iter().position(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// What follows `Bearer` and exactly one space. The scheme is a word in any letter case (RFC 9110 §11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (&[b, e, a, r, e2, r2, blank], rest) = value.split_first_chunk::<7>()?;
    // All at once: the bit that tells letter cases apart is set in every byte, and only letters are these with it.
    let scheme = u64::from_le_bytes([b, e, a, r, e2, r2, 0, 0]) | u64::from_le_bytes(*b"      \0\0");
    (scheme == u64::from_le_bytes(*b"bearer\0\0") && blank == b' ').then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::span::Span,
        config::callers::{Callers, Digests, tests::caller},
        wire::{
            http1::{HeadLimits, Known, parse_request},
            token::{DigestKey, TokenId},
        },
    };

    const ONE: &str = "rw_abcdefghij012345_aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq";
    const TWO: &str = "rw_abcdefghij012345_baaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq";

    /// `lines` may say `ONE` and `TWO`; what comes of it, in a word.
    #[track_caller]
    fn check(lines: &[&str], expect: &str) {
        let lines: String =
            lines.iter().map(|line| line.replace("ONE", ONE).replace("TWO", TWO) + "\r\n").collect();
        let head = format!("GET /v1/models HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        let parsed = parse_request(head.as_bytes(), HeadLimits::default());
        let parsed = parsed.expect("a lawful head").expect("a whole head");
        let word = match presented(&parsed.fields, head.as_bytes()) {
            Presented::None => "none",
            Presented::One(token) if Some(&token) == token::parse(ONE.as_bytes()).as_ref() => "ONE",
            Presented::One(_) => "TWO",
            Presented::Conflict => "conflict",
            Presented::Malformed => "malformed",
        };
        assert_eq!(word, expect, "{lines}");
    }

    #[test]
    fn a_token_is_found_wherever_it_may_stand() {
        check(&[], "none");
        for name in ["Authorization", "esa_aigw_auth", "esa-aigw-auth", "ESA_AIGW_AUTH", "Esa-Aigw-Auth"] {
            check(&[&format!("{name}: Bearer ONE")], "ONE");
            check(&[&format!("{name}: bEARER ONE")], "ONE");
            check(&[&format!("{name}:Bearer ONE  ")], "ONE");
        }
        check(&["X-Api-Key: ONE"], "ONE");
        check(&["api-key: ONE"], "ONE");
        check(&["apikey: ONE", "x-auth: Bearer ONE", "cookie: ONE"], "none");
    }

    #[test]
    fn a_foreign_key_beside_the_deciding_header_is_dropped_unread() {
        // What an SDK does that is given the token as a default header: it still sends its own key.
        check(&["Authorization: Bearer sk-of-the-sdk", "esa_aigw_auth: Bearer ONE"], "ONE");
        check(
            &["esa_aigw_auth: Bearer ONE", "x-api-key: sk-1", "api-key: ", "Authorization: Basic x"],
            "ONE",
        );
        check(&["Authorization: Bearer sk-1", "x-api-key: ONE"], "ONE");
        check(&["Authorization: Bearer sk-1", "x-api-key: sk-2"], "none");
    }

    #[test]
    fn what_is_almost_a_token_is_none() {
        for value in
            ["ONE", "Bearer  ONE", "Bearer\tONE", "Bearer ONE ONE", "Bearer ONE,", "Bearer", "BearerONE", ""]
        {
            check(&[&format!("Authorization: {value}")], "none");
            check(&[&format!("esa_aigw_auth: {value}")], "malformed");
        }
        check(&["x-api-key: Bearer ONE"], "none");
        check(&["esa_aigw_auth: Bearer sk-1"], "malformed");
    }

    #[test]
    fn a_deciding_header_without_a_token_is_not_made_good_by_another() {
        check(&["esa_aigw_auth: Bearer sk-1", "Authorization: Bearer ONE"], "malformed");
        check(&["Authorization: Bearer ONE", "esa-aigw-auth:"], "malformed");
        check(&["esa_aigw_auth: Bearer ONE", "esa-aigw-auth: Bearer x"], "malformed");
    }

    #[test]
    fn two_tokens_that_differ_are_a_conflict() {
        check(&["esa_aigw_auth: Bearer ONE", "Authorization: Bearer TWO"], "conflict");
        check(&["Authorization: Bearer ONE", "x-api-key: TWO"], "conflict");
        check(&["esa_aigw_auth: Bearer ONE", "esa-aigw-auth: Bearer TWO"], "conflict");
        check(&["api-key: sk-1", "x-api-key: ONE", "Authorization: Bearer TWO"], "conflict");
        check(&["esa_aigw_auth: Bearer ONE", "esa-aigw-auth: bearer ONE", "x-api-key: ONE"], "ONE");
    }

    #[test]
    fn one_header_twice_must_say_the_same() {
        for name in ["Authorization", "esa_aigw_auth", "esa-aigw-auth"] {
            check(&[&format!("{name}: Bearer ONE"), &format!("{name}: Bearer ONE")], "ONE");
            check(&[&format!("{name}: Bearer ONE"), &format!("{name}: Bearer TWO")], "conflict");
            check(&[&format!("{name}: Bearer ONE"), &format!("{name}: Bearer sk-1")], "conflict");
            check(&[&format!("{name}: Bearer ONE"), &format!("{}: Bearer", name.to_uppercase())], "conflict");
        }
        check(&["x-api-key: sk-1", "x-api-key: ONE"], "conflict");
        check(&["x-api-key: sk-1", "x-api-key: sk-2", "esa_aigw_auth: Bearer ONE"], "conflict");
    }

    /// How many changed values are tried; the whole of it is `RINGWAY_TEST_MUTATIONS=1000000`.
    const MUTATIONS: usize = 200_000;

    #[test]
    fn of_many_changed_values_none_lets_anyone_in_but_the_token_itself() {
        let rounds = std::env::var("RINGWAY_TEST_MUTATIONS").ok().and_then(|rounds| rounds.parse().ok());
        let rounds = rounds.unwrap_or(MUTATIONS);
        let key = DigestKey::new(&[3; 32]);
        let mut chance = Chance(0x5eed_0003);
        let tokens: Vec<_> = (0..64)
            .map(|_| {
                let id = TokenId::draw(&std::array::from_fn(|_| chance.byte()));
                let secret = std::array::from_fn(|_| chance.byte());
                (
                    token::render(id, &secret),
                    id,
                    Digests { current: key.digest_of(id, &secret), former: None },
                )
            })
            .collect();
        let callers = tokens.iter().map(|(_, id, digests)| (caller(*id), *digests)).collect();
        let callers = Callers::new(key, callers).expect("all differ");
        let mut let_in = 0;
        for _ in 0..rounds {
            let (text, ..) = &tokens[chance.below(tokens.len())];
            let other = &tokens[chance.below(tokens.len())].0;
            let mut head = format!("authorizationBearer {}", text.as_str()).into_bytes();
            for _ in 0..=chance.below(3) {
                if head.len() < 16 {
                    break;
                }
                let at = 13 + chance.below(head.len() - 13);
                match chance.below(8) {
                    0 => head[at] = chance.byte(),
                    1 => head[at] ^= 1 << chance.below(8),
                    // Characters of the alphabet: what still has the form of a token.
                    2 | 3 => head[at] = b"abcdefghijklmnopqrstuvwxyz234567"[chance.below(32)],
                    4 => drop(head.remove(at)),
                    5 => head.insert(at, chance.byte()),
                    6 => head.truncate(at.max(14)),
                    // The end of another caller's token.
                    _ => {
                        let from = (at - 13).saturating_sub(7).min(other.len());
                        head.truncate(13 + 7 + from);
                        head.extend_from_slice(&other.as_bytes()[from..]);
                    }
                }
            }
            let fields = [Field {
                name: Span::new(0, 13),
                value: Span::new(13, head.len()),
                known: Known::Authorization,
            }];
            let value = &head[13..];
            let is_right = value.len() > 7
                && value[..7].eq_ignore_ascii_case(b"bearer ")
                && tokens.iter().any(|(token, ..)| token.as_bytes() == &value[7..]);
            let is_in = match presented(&fields, &head) {
                Presented::One(token) => callers.authenticate(&token, 0).is_ok(),
                _ => false,
            };
            assert_eq!(is_in, is_right, "{}", String::from_utf8_lossy(value));
            let_in += usize::from(is_in);
        }
        assert!(let_in > 0 && let_in < rounds / 2, "{let_in} were the token unchanged");
    }

    struct Chance(u64);

    impl Chance {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 11).expect("64 bits") % bound
        }

        fn byte(&mut self) -> u8 {
            u8::try_from(self.below(256)).expect("a byte")
        }
    }

    #[test]
    fn every_name_is_known_in_any_letter_case() {
        let place = |name: &[u8]| place(Known::of(name), name);
        for (index, (name, _)) in NAMES.iter().enumerate() {
            assert_eq!(
                (place(name.as_bytes()), place(name.to_uppercase().as_bytes())),
                (Some(index), Some(index))
            );
        }
        assert_eq!(place(b"authorization"), Some(AUTHORIZATION));
        assert!(place(b"accept").is_none() && place(b"content-length").is_none() && place(b"").is_none());
    }
}
