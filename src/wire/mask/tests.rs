//! What is masked and what is not, wherever a text is cut.

use super::*;
use crate::wire::json::mutate;

fn all() -> Rules {
    let patterns = Patterns::new(&["(?i)proj-[0-9]+", r"\bsecret\b"]).expect("they are good");
    Rules { email: true, phone: true, card: true, national_id: true, ip: true, patterns }
}

fn masked(rules: &Rules, text: &str) -> String {
    String::from_utf8(mask(rules, text.as_bytes())).expect("text stays text")
}

#[track_caller]
fn check(text: &str, expect: &str) {
    assert_eq!(masked(&all(), text), expect);
}

/// The same for each of them inside a sentence, in JSON, and between other letters, where it is none.
#[track_caller]
fn check_each(label: &str, texts: &[&str]) {
    for text in texts {
        check(text, label);
        check(&format!("so {text}, or ({text})."), &format!("so {label}, or ({label})."));
        check(&format!(r#"{{"a":"{text}","b":"\n{text}\n","c":"\u00e9{text}"}}"#), &{
            format!(r#"{{"a":"{label}","b":"\n{label}\n","c":"\u00e9{label}"}}"#)
        });
    }
}

#[track_caller]
fn check_kept(texts: &[&str]) {
    texts.iter().for_each(|text| check(text, text));
}

#[test]
fn keys_and_tokens_are_masked_without_being_asked_for() {
    let none = Rules::default();
    for key in [
        "sk-test-canary",
        "sk-proj-Abc_123-xyzXYZ",
        "sk-ant-api03-AAAABBBBCCCC",
        "rw_abcdefghij234567_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "gsk_0123456789abcdefghij",
        "AIzaSyA0123456789_abcdefghijklmnopqrstu",
        "hf_abcdefghijklmnopqrstuvwx",
        "xai-0123456789abcdefghij",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-DEF_1",
        "AKIAIOSFODNN7EXAMPLE",
    ] {
        for (before, behind) in [("", ""), ("key=", " x"), ("\"", "\""), (r"\n", r"\n"), ("é", "\n")] {
            assert_eq!(masked(&none, &format!("{before}{key}{behind}")), format!("{before}[key]{behind}"));
        }
        let endless = key.to_owned() + &"A".repeat(3 * WINDOW);
        assert_eq!(masked(&none, &format!("{endless} end")), "[key] end");
    }
    for (text, expect) in [
        ("Authorization: Bearer abcdefgh.ijk", "Authorization: Bearer [key]"),
        ("BEARER  x1234567\r\n", "BEARER  [key]\r\n"),
        ("bearer of news", "bearer of news"),
        ("forbearer abcdefghijk", "forbearer abcdefghijk"),
    ] {
        assert_eq!(masked(&none, text), expect);
    }
    let kept = [
        "a task-management risk-assessment",
        "sk-SK",
        "xai-model",
        "hf_hub",
        "me@example.com 4111111111111111",
    ];
    kept.iter().for_each(|text| assert_eq!(masked(&none, text), *text));
}

#[test]
fn email_addresses() {
    check_each("[email]", &["me@example.com", "first.last+tag@mail.example.co.uk", "a@b.de"]);
    check("<me@example.com>", "<[email]>");
    check_kept(&["me@localhost", "@user", "a@b.", "a @b.com", "x@1.2"]);
    let long = "a".repeat(100) + "@example.com";
    check(&long, &("a".repeat(36) + "[email]"));
}

#[test]
fn the_quick_way_over_words_meets_every_address() {
    let rules = Rules { email: true, ..Rules::default() };
    let patterns = Patterns::new(&[r"\b\B"]).expect("it is good");
    let slow = Rules { email: true, patterns, ..Rules::default() };
    let plain = |rules: &Rules, text: &str| in_pieces(Masker::plain(rules), text.as_bytes(), text.len());
    for local in [1, 2, 63, 64, 65, 66, 130] {
        for before in ["", "x ", "one@two ", "@", "é+", "word word-word "] {
            let text =
                before.to_owned() + &"a".repeat(local) + "@b.cd, and " + &"e".repeat(local) + "@@f.gh end";
            let masked = plain(&rules, &text);
            assert_eq!(masked, plain(&slow, &text), "{text}");
            assert!(String::from_utf8_lossy(&masked).contains("[email], and "));
        }
    }
}

#[test]
fn card_numbers() {
    check_each(
        "[card]",
        &["4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005"],
    );
    check("4111 1111 1111 1111 12/30", "[card] 12/30");
    check("1 4111 1111 1111 1111", "1 [card]");
    check_kept(&["4111111111111112", "0000000000000000", "x4111111111111111", "41111111111111110000"]);
}

#[test]
fn national_identity_numbers() {
    check_each("[id]", &["11010519491231002X", "440524188001010014", "078-05-1120"]);
    check_kept(&[
        "110105194912310021",
        "000-12-3456",
        "666-12-3456",
        "912-12-3456",
        "123-00-4567",
        "123-45-0000",
    ]);
}

#[test]
fn phone_numbers() {
    check_each(
        "[phone]",
        &["+49 30 1234567", "+1 (212) 555-0123", "212-555-0123", "13812345678", "138-1234-5678"],
    );
    check_each("[phone]", &["030 1234567", "0171/2345678"]);
    check("(212) 555-0123", "[phone]");
    check_kept(&[
        "12345",
        "2026-11-22",
        "1234567890123",
        "+12",
        "3.14159265358979",
        "0.12345678901",
        "10 20 30 40 50 60",
    ]);
}

#[test]
fn addresses_of_machines() {
    check_each("[ip]", &["192.0.2.7", "2001:db8::1", "fe80::1", "::1", "::ffff:192.0.2.7"]);
    check("http://192.0.2.7:8080/ and [2001:db8::1]:443", "http://[ip]:8080/ and [[ip]]:443");
    check_kept(&["1.2.3", "1.2.3.4.5", "256.1.1.1", "12:30:45", "a:b", "std::fmt", "::", "1.2.3.4x"]);
}

#[test]
fn patterns_of_ones_own() {
    check("Proj-12345 and proj-x", "[masked] and proj-x");
    check("a secret, no secrets", "a [masked], no secrets");
    let endless = Rules { patterns: Patterns::new(&["x+"]).expect("good"), ..Rules::default() };
    assert_eq!(
        masked(&endless, &format!("a{}b", "x".repeat(MASK_MATCH_BYTES_MAX + 1))),
        "a[masked][masked]b"
    );
    let ends = Rules { patterns: Patterns::new(&["^a", "a$", "b*"]).expect("good"), ..Rules::default() };
    assert_eq!(masked(&ends, "aaabca"), "[masked]aa[masked]c[masked]");
}

#[test]
fn a_pattern_that_cannot_be_used_is_named() {
    assert_eq!(Patterns::new(&["a", "(b"]).expect_err("no group").index, Some(1));
    assert!(Patterns::new(&["(?:[\\w]{200}){200}"]).is_err(), "it would take too much memory");
}

const TEXTS: &[&str] = &[
    "Bearer abcdefgh sk-12345678 x@y.zz",
    r#"{"k":"\nsk-abcdefgh\u00e9","m":"a.b@c.de"}"#,
    "4111 1111 1111 1111 078-05-1120",
    "+49 30 1234567; 192.0.2.7:80, ::1 proj-1",
    "11010519491231002X secret 1.2.3.4.5",
];

#[test]
fn cut_at_every_pair_of_places_the_same_is_masked() {
    let rules = all();
    for text in TEXTS {
        let text = text.as_bytes();
        let whole = mask(&rules, text);
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let (mut masker, mut out) = (Masker::new(&rules), Vec::new());
                [&text[..first], &text[first..second], &text[second..]]
                    .into_iter()
                    .for_each(|piece| masker.push(piece, &mut out));
                masker.finish(&mut out);
                assert_eq!(out, whole, "cut at {first} and {second}");
            }
        }
    }
}

#[test]
fn cut_anywhere_a_text_longer_than_what_is_held_back_is_masked_alike() {
    let rules = all();
    let long: String =
        TEXTS.iter().flat_map(|text| [*text, " and ", "plain words "]).collect::<String>().repeat(3);
    let long = format!("{long}sk-{}{long}", "k".repeat(2 * WINDOW));
    let whole = mask(&rules, long.as_bytes());
    for cut in 0..=long.len() {
        let (mut masker, mut out) = (Masker::new(&rules), Vec::new());
        masker.push(&long.as_bytes()[..cut], &mut out);
        masker.push(&long.as_bytes()[cut..], &mut out);
        masker.finish(&mut out);
        assert_eq!(out, whole, "cut at {cut}");
    }
}

const NAMES: &[&str] = &[
    "openai/gpt-4o-mini-2024-07-18",
    "0193b2f4-7c1e-7aaa-8bbb-0123456789ab",
    "qwen/qwen3-coder:free (eu)",
    "é",
    "",
];

#[test]
fn a_name_that_shows_nothing_is_handed_back_and_any_other_is_masked_alike() {
    let rules = Rules { email: true, card: true, ..Rules::default() };
    for name in NAMES {
        assert!(matches!(super::masked(&rules, name), Cow::Borrowed(_)), "{name}");
    }
    for text in TEXTS.iter().chain(NAMES).chain(&[
        "x/sk-12345678",
        "a@b.cd",
        "gsk_0123456789abcdefghij",
        "(4111111111111111",
    ]) {
        for rules in [&rules, &all(), &Rules::default()] {
            assert_eq!(super::masked(rules, text).as_bytes(), mask(rules, text.as_bytes()), "{text}");
        }
    }
}

#[test]
fn mutated_texts_keep_the_promises() {
    let mut seeds: Vec<&[u8]> = TEXTS.iter().map(|text| text.as_bytes()).collect();
    let long = TEXTS.concat().repeat(4);
    seeds.push(long.as_bytes());
    seeds.extend(NAMES.iter().map(|name| name.as_bytes()));
    mutate::each(&seeds, 2_000, fuzz_mask);
}
