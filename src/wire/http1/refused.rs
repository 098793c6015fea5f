//! Why a head was refused: one name for each reason, so that a log line, a test row and a client's error agree.

/// What is wrong with a head. Nothing after it on the connection may be read as a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BadHead {
    TooLarge,
    TooManyFields,
    LeadingEmptyLine,
    BareLf,
    BareCr,
    BadMethod,
    BadTarget,
    BadPath,
    BadVersion,
    BadStatus,
    EmptyName,
    BadName,
    SpaceBeforeColon,
    ObsFold,
    BadValue,
    MissingHost,
    SeveralHosts,
    BadHost,
    BadConnection,
    BadExpect,
    LengthAndChunked,
    SeveralLengths,
    BadLength,
    BadTransferEncoding,
    ChunkedInHttp10,
    BodyNotAllowed,
    SwitchedProtocols,
}

impl BadHead {
    /// A sentence fit for whoever sent it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLarge => "The header section is too large.",
            Self::TooManyFields => "The header section has too many fields.",
            Self::LeadingEmptyLine => "The message begins with an empty line.",
            Self::BareLf => "A line of the header section ends in LF without CR.",
            Self::BareCr => "The header section has a CR that no LF follows.",
            Self::BadMethod => "The method is malformed, or is CONNECT, which is not served.",
            Self::BadTarget => "The request target is malformed.",
            Self::BadPath => {
                "The path has an empty or dot segment, or an encoded slash, dot, backslash or control byte."
            }
            Self::BadVersion => {
                "The protocol version is not HTTP/1.1 or HTTP/1.0, or the first line is malformed."
            }
            Self::BadStatus => "The status line is malformed.",
            Self::EmptyName => "A header field has no name.",
            Self::BadName => "A header field's name is malformed, or its line has no colon.",
            Self::SpaceBeforeColon => "White space stands between a header field's name and its colon.",
            Self::ObsFold => "A header field is folded over several lines.",
            Self::BadValue => "A header field's value has a control byte.",
            Self::MissingHost => "The Host header field is missing.",
            Self::SeveralHosts => "The Host header field is repeated.",
            Self::BadHost => "The Host header field, or the target's authority, is malformed.",
            Self::BadConnection => "The Connection header field is malformed.",
            Self::BadExpect => "The only expectation that can be met is 100-continue.",
            Self::LengthAndChunked => "Content-Length and Transfer-Encoding were both sent.",
            Self::SeveralLengths => "Content-Length is repeated.",
            Self::BadLength => "Content-Length is not a decimal number.",
            Self::BadTransferEncoding => "The only Transfer-Encoding that is understood is one 'chunked'.",
            Self::ChunkedInHttp10 => "Transfer-Encoding was sent with HTTP/1.0.",
            Self::BodyNotAllowed => "A response whose status forbids a body announces one.",
            Self::SwitchedProtocols => "The protocol was switched without having been asked to.",
        }
    }
}

impl std::fmt::Display for BadHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for BadHead {}
