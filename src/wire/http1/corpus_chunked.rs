//! Chunked bodies that must be refused, each with its reason, and near neighbours that must not be.

use super::chunked::{
    BadChunk::{self, *},
    read,
};
use crate::base::limits::{CHUNK_EXTENSION_BYTES_MAX, TRAILER_BYTES_MAX};

const BAD: &[(&[u8], BadChunk)] = &[
    // No size.
    (b"\r\n", NoSize),
    (b"\r\n\r\n", NoSize),
    (b";a\r\n", NoSize),
    (b"1\r\na\r\n\r\n", NoSize),
    (b"1\r\na\r\n;\r\n", NoSize),
    // Not a hexadecimal number.
    (b"\n", BadSize),
    (b"5\nhello\r\n0\r\n\r\n", BadSize),
    (b"0\n\n", BadSize),
    (b"0\n\r\n", BadSize),
    (b"0x5\r\nhello\r\n", BadSize),
    (b"0X5\r\n", BadSize),
    (b"x5\r\n", BadSize),
    (b"+5\r\n", BadSize),
    (b"-5\r\n", BadSize),
    (b"-0\r\n\r\n", BadSize),
    (b"1_0\r\n", BadSize),
    (b"1,0\r\n", BadSize),
    (b"1.0\r\n", BadSize),
    (b"5h\r\n", BadSize),
    (b"g\r\n", BadSize),
    (b"G\r\n", BadSize),
    (b" 5\r\n", BadSize),
    (b"\t5\r\n", BadSize),
    (b"5 \r\nhello", BadSize),
    (b"5\t\r\nhello", BadSize),
    (b"5 ;a\r\nhello", BadSize),
    (b"5\t;a\r\nhello", BadSize),
    (b"5\x0b\r\n", BadSize),
    (b"5\0\r\n", BadSize),
    (b"\x005\r\n", BadSize),
    (b"5:\r\n", BadSize),
    (b"5=a\r\n", BadSize),
    (b"\"5\"\r\n", BadSize),
    (b"\xef\xbc\x95\r\n", BadSize),
    (b"\xff\r\n", BadSize),
    (b"@\r\n", BadSize),
    (b"`\r\n", BadSize),
    (b"/\r\n", BadSize),
    (b"data: {}\n\n", BadSize),
    // Too long.
    (b"00000000000000005\r\nhello", SizeTooLong),
    (b"10000000000000000\r\n", SizeTooLong),
    (b"fffffffffffffffff\r\n", SizeTooLong),
    (b"00000000000000000\r\n\r\n", SizeTooLong),
    (b"1\r\na\r\n10000000000000001\r\n", SizeTooLong),
    // Line ends.
    (b"5\rhello\r\n", BadLineEnd),
    (b"5\r\r\nhello\r\n", BadLineEnd),
    (b"5;a\rb\r\n", BadLineEnd),
    (b"5;a\r\r\n", BadLineEnd),
    (b"0\r\r\n\r\n", BadLineEnd),
    (b"0\r\n\rX", BadLineEnd),
    (b"0\r\n\r\r\n", BadLineEnd),
    (b"0\r\na: b\rc: d\r\n\r\n", BadLineEnd),
    (b"0\r\na: b\r\n\r0", BadLineEnd),
    // Extensions.
    (b"5;\r\nhello\r\n", BadExtension),
    (b"5;\nhello", BadExtension),
    (b"5;a\nhello\r\n", BadExtension),
    (b"2;\n\nxx\r\n", BadExtension),
    (b"5;a\0b\r\n", BadExtension),
    (b"5;a\tb\r\n", BadExtension),
    (b"5;a\x7f\r\n", BadExtension),
    (b"5;a=\"\x1b\"\r\n", BadExtension),
    (b"5;\xc3\xa9\r\n", BadExtension),
    (b"0;\n0\r\n\r\n", BadExtension),
    // Payload that is longer or shorter than its size, or ends otherwise.
    (b"5\r\nhello!\r\n0\r\n\r\n", BadPayloadEnd),
    (b"5\r\nhello0\r\n\r\n", BadPayloadEnd),
    (b"5\r\nhello\n0\r\n\r\n", BadPayloadEnd),
    (b"5\r\nhello\r0\r\n\r\n", BadPayloadEnd),
    (b"5\r\nhello\n\r0\r\n", BadPayloadEnd),
    (b"5\r\nhello\r\r\n", BadPayloadEnd),
    (b"4\r\nhello\r\n", BadPayloadEnd),
    (b"5\r\nhell\r\n0\r\n\r\n", BadPayloadEnd),
    (b"1\r\n\r\n0\r\n\r\n", BadPayloadEnd),
    // Trailers.
    (b"0\r\n\n", BadTrailer),
    (b"0\r\n: b\r\n\r\n", BadTrailer),
    (b"0\r\na\r\n\r\n", BadTrailer),
    (b"0\r\na : b\r\n\r\n", BadTrailer),
    (b"0\r\n a: b\r\n\r\n", BadTrailer),
    (b"0\r\na: b\r\n c\r\n\r\n", BadTrailer),
    (b"0\r\na: b\r\n\tc\r\n\r\n", BadTrailer),
    (b"0\r\na: b\n\r\n", BadTrailer),
    (b"0\r\na: b\n\n", BadTrailer),
    (b"0\r\na: b\r\n\n", BadTrailer),
    (b"0\r\na: \0\r\n\r\n", BadTrailer),
    (b"0\r\na: \x7f\r\n\r\n", BadTrailer),
    (b"0\r\na\0: b\r\n\r\n", BadTrailer),
    (b"0\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", BadTrailer),
    (b"0\r\n\xc3\xa9: b\r\n\r\n", BadTrailer),
];

const GOOD: &[(&[u8], &[u8])] = &[
    (b"0\r\n\r\n", b""),
    (b"0000000000000000\r\n\r\n", b""),
    (b"0;a=b\r\n\r\n", b""),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b"0000000000000005\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    (b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n", b"ab"),
    (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
    (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    (b"1;a\r\nx\r\n0\r\n\r\n", b"x"),
    (b"1; a = \"b;c\"; d\r\nx\r\n0\r\n\r\n", b"x"),
    (b"0\r\na: b\r\n\r\n", b""),
    (b"0\r\na:\r\nb:  \t\xff \r\nContent-Length: 5\r\n\r\n", b""),
];

#[track_caller]
fn bad(body: &[u8], expect: BadChunk) {
    let everywhere: Vec<usize> = (0..body.len()).collect();
    let (payload, end) = read(body, &[]);
    assert_eq!(end, Err(expect), "{}", body.escape_ascii());
    assert_eq!(read(body, &everywhere), (payload, end), "byte by byte: {}", body.escape_ascii());
}

#[track_caller]
fn good(body: &[u8], payload: &[u8]) {
    let whole = (payload.to_vec(), Ok(Some(body.len())));
    for first in 0..=body.len() {
        for second in first..=body.len() {
            assert_eq!(read(body, &[first, second]), whole, "{}", body.escape_ascii());
        }
    }
    // What comes behind it is not touched, and any part of it is a body that goes on.
    assert_eq!(read(&[body, b"5\r\nhello\r\n"].concat(), &[]), whole);
    (0..body.len())
        .for_each(|end| assert_eq!(read(&body[..end], &[]).1, Ok(None), "{}", body.escape_ascii()));
}

#[test]
fn a_malformed_chunked_body_is_refused_for_its_reason() {
    BAD.iter().for_each(|(body, expect)| bad(body, *expect));
    assert!(BAD.len() >= 60, "rows were lost");
}

#[test]
fn a_well_formed_chunked_body_is_taken() {
    GOOD.iter().for_each(|(body, payload)| good(body, payload));
}

#[test]
fn extensions_and_trailers_have_a_longest() {
    let extended = |bytes: usize| format!("1;{}\r\nx\r\n1;a\r\ny\r\n0\r\n\r\n", "e".repeat(bytes));
    good_of(&extended(CHUNK_EXTENSION_BYTES_MAX), b"xy");
    bad(extended(CHUNK_EXTENSION_BYTES_MAX + 1).as_bytes(), ExtensionTooLong);
    let trailed = |bytes: usize| format!("0\r\na:{}\r\n\r\n", "v".repeat(bytes - 4));
    good_of(&trailed(TRAILER_BYTES_MAX), b"");
    bad(trailed(TRAILER_BYTES_MAX + 1).as_bytes(), TrailersTooLarge);
    bad(format!("0\r\n{}\r\n", "a:b\r\n".repeat(TRAILER_BYTES_MAX / 5 + 1)).as_bytes(), TrailersTooLarge);
}

#[track_caller]
fn good_of(body: &str, payload: &[u8]) {
    assert_eq!(read(body.as_bytes(), &[]), (payload.to_vec(), Ok(Some(body.len()))));
}

#[test]
fn the_largest_size_is_sixty_four_bits() {
    assert_eq!(read(b"ffffffffffffffff\r\nabc", &[]), (b"abc".to_vec(), Ok(None)));
    assert_eq!(read(b"FFFFFFFFFFFFFFFF;x\r\nabc", &[]), (b"abc".to_vec(), Ok(None)));
}
