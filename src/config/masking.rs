//! What logs never show: keys and tokens always, and what the operator chooses besides.

use std::sync::Arc;

use super::raw::{Field, Table};
use crate::{
    base::limits::{MASK_PATTERN_BYTES_MAX, MASK_PATTERNS_MAX},
    wire::mask::{Patterns, Rules},
};

/// Compiles the table. The rules are shared with whoever writes a log.
pub(super) fn masking(table: Option<Table<'_>>) -> Arc<Rules> {
    let Some(mut table) = table else { return Arc::default() };
    let mut flag = |key| table.get(key).and_then(Field::flag).unwrap_or(false);
    let (email, phone, card) = (flag("email"), flag("phone"), flag("card"));
    let (national_id, ip) = (flag("national_id"), flag("ip"));
    let patterns = table.get("patterns").and_then(patterns).unwrap_or_default();
    table.close();
    Arc::new(Rules { email, phone, card, national_id, ip, patterns })
}

fn patterns(field: Field<'_>) -> Option<Patterns> {
    let texts = field.texts()?;
    if let Some(one_too_many) = texts.get(MASK_PATTERNS_MAX) {
        one_too_many.complain(
            format!("there are more than {MASK_PATTERNS_MAX} patterns"),
            "join some of them with `|`",
        );
        return None;
    }
    if let Some(long) = texts.iter().find(|text| text.value.len() > MASK_PATTERN_BYTES_MAX) {
        long.complain(
            format!("this pattern is longer than {MASK_PATTERN_BYTES_MAX} bytes"),
            "make two of it",
        );
        return None;
    }
    let words: Vec<&str> = texts.iter().map(|text| text.value.as_str()).collect();
    match Patterns::new(&words) {
        Ok(patterns) => Some(patterns),
        Err(bad) => {
            let place = bad.index.and_then(|index| texts.get(index)).or_else(|| texts.first())?;
            let why = bad.why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            place.complain(
                format!("this is no regular expression that can be used: {why}"),
                "look-around and back-references do not exist here; \"\\\\bword\\\\b\" masks a word",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check as check_said, compiled};
    use crate::wire::mask::mask;

    const PROVIDER: &str = "[[provider]]\nname = \"p\"\nauth = \"none\"\nbase_url = \"http://127.0.0.1:1\"\n";

    #[track_caller]
    fn check(settings: &str, expect: &str) {
        let text = "sk-12345678 a@b.cd 138 1234 5678 4111111111111111 078-05-1120 ::1 word";
        let rules = compiled(&format!("{PROVIDER}{settings}")).snapshot.masking;
        assert_eq!(String::from_utf8(mask(&rules, text.as_bytes())).as_deref(), Ok(expect));
    }

    #[test]
    fn keys_are_masked_always_and_the_rest_by_choice() {
        check("", "[key] a@b.cd 138 1234 5678 4111111111111111 078-05-1120 ::1 word");
        check(
            "[masking]\nemail = true\nip = true\npatterns = [\"w.rd\"]",
            "[key] [email] 138 1234 5678 4111111111111111 078-05-1120 [ip] [masked]",
        );
        check(
            "[masking]\nphone = true\ncard = true\nnational_id = true",
            "[key] a@b.cd [phone] [card] [id] ::1 word",
        );
    }

    #[test]
    fn a_pattern_that_is_none_is_shown() {
        let said = |what: &str| vec![format!("6:18 masking.patterns[1]: {what}")];
        let table = format!("{PROVIDER}[masking]\npatterns = [\"a\", \"(b\"]\n");
        let what = said("this is no regular expression that can be used: unclosed group");
        check_said(&table, &what.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
