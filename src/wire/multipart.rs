use crate::{base::span::Span, wire::json::Spliced};
pub struct MultipartPeek<'a> { pub model: &'a str, pub model_value: Span, pub stream: bool }
pub struct BadMultipart;
impl BadMultipart { pub fn reason(&self)->&'static str{""} pub fn param(&self)->Option<&'static str>{None} pub fn code(&self)->&'static str{""} }
pub fn boundary(_: &[u8]) -> Result<&[u8], BadMultipart> { Err(BadMultipart) }
pub fn peek_multipart<'a>(_b: &'a [u8], _d: &[u8]) -> Result<MultipartPeek<'a>, BadMultipart> { Err(BadMultipart) }
pub fn splice(_: &MultipartPeek<'_>, _: usize, _: &str, _: &mut Vec<u8>) -> Spliced { Spliced{pieces: Default::default(), len:0} }
