//! Names that decide where a request goes or what it costs, and the names that are refused because they would.
//!
//! The rule behind both lists: the request that was authorised is the request that is sent. A key that an upstream could
//! read as one of ours, or as an order to go elsewhere, is refused, never dropped, so that nobody believes it works.

/// Keys this gateway, or an upstream, decides by. In another letter case they are refused: Go's `encoding/json` would
/// read `Model` as `model`, and take the later of the two.
static ROUTING_KEYS: Names<16> = Names::new([
    "messages",
    "model",
    "stream",
    "stream_options",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "user",
    "metadata",
    "store",
    "tools",
    "service_tier",
    "background",
    "previous_response_id",
    "include_usage",
]);

/// Keys with which some upstreams (proxies such as LiteLLM, aggregators such as OpenRouter) let the body choose another
/// address, credential or model than the one that was authorised here.
static REDIRECTING_KEYS: Names<13> = Names::new([
    "api_base",            // another address
    "base_url",            // another address
    "api_key",             // another credential
    "api_version",         // another interface at the address
    "organization",        // another account to bill
    "extra_headers",       // headers, thus any credential
    "extra_body",          // merged into the body after we looked: could hold any of these
    "proxy",               // another way out
    "custom_llm_provider", // another provider
    "models",              // other models to fall back to
    "fallbacks",           // other models to fall back to
    "model_list",          // other models with addresses and credentials of their own
    "route",               // how to choose among them
]);

/// Every key that starts so is an order to a LiteLLM proxy (callbacks, credentials, spending).
const REDIRECTING_PREFIX: &str = "litellm_";

/// The routing key that these bytes are, letter for letter: most keys of a body are one.
pub(crate) fn exact_routing_key(key: &[u8]) -> Option<&'static str> {
    ROUTING_KEYS.of_length(key.len()).iter().copied().find(|name| name.as_bytes() == key)
}

/// The routing key that `key` is, or would be in another letter case.
pub(crate) fn routing_key(key: &str) -> Option<&'static str> {
    ROUTING_KEYS.folded(key)
}

/// The name, as we list it, of the redirecting key that `key` is in any letter case.
pub(crate) fn redirects(key: &str) -> Option<&'static str> {
    REDIRECTING_KEYS.folded(key).or_else(|| {
        let start = key.get(..REDIRECTING_PREFIX.len())?;
        start.eq_ignore_ascii_case(REDIRECTING_PREFIX).then_some(REDIRECTING_PREFIX)
    })
}

/// Names in the order of their lengths: the length settles nearly every comparison.
struct Names<const N: usize> {
    names: [&'static str; N],
    /// How many are shorter than this index.
    shorter: [usize; NAME_BYTES_MAX + 2],
}

const NAME_BYTES_MAX: usize = 21;

impl<const N: usize> Names<N> {
    const fn new(given: [&'static str; N]) -> Self {
        let (mut names, mut sorted) = (given, 0);
        let mut shorter = [0; NAME_BYTES_MAX + 2];
        let mut bytes = 0;
        while bytes <= NAME_BYTES_MAX {
            let mut at = 0;
            while at < N {
                if given[at].len() == bytes {
                    names[sorted] = given[at];
                    sorted += 1;
                }
                at += 1;
            }
            bytes += 1;
            shorter[bytes] = sorted;
        }
        assert!(sorted == N, "no name is longer than the longest");
        Self { names, shorter }
    }

    fn of_length(&self, bytes: usize) -> &[&'static str] {
        let Some(&[from, to]) = self.shorter.get(bytes..).and_then(|rest| rest.first_chunk()) else {
            return &[];
        };
        &self.names[from..to]
    }

    /// The name that `key` is under simple case folding. Besides ASCII, two letters fold to one: Go knows them.
    fn folded(&self, key: &str) -> Option<&'static str> {
        if key.is_ascii() {
            return self.of_length(key.len()).iter().copied().find(|name| name.eq_ignore_ascii_case(key));
        }
        let fold = |letter| match letter {
            'ſ' => 's',
            '\u{212A}' => 'k', // the Kelvin sign
            letter => letter.to_ascii_lowercase(),
        };
        self.names.iter().copied().find(|name| key.chars().map(fold).eq(name.chars()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_routing_key_is_known_in_any_letter_case() {
        for (key, name) in [
            ("model", Some("model")),
            ("MODEL", Some("model")),
            ("\u{17F}tream", Some("stream")),
            ("max_to\u{212A}ens", Some("max_tokens")),
            ("N", Some("n")),
            ("modèl", None),
            ("models", None),
            ("", None),
        ] {
            assert_eq!(routing_key(key), name, "{key}");
        }
    }

    #[test]
    fn only_in_its_own_letters_a_routing_key_is_exact() {
        for name in ROUTING_KEYS.names {
            assert_eq!(exact_routing_key(name.as_bytes()), Some(name));
            assert_eq!(exact_routing_key(name.to_uppercase().as_bytes()), None);
            assert_eq!(exact_routing_key(&name.as_bytes()[1..]), None);
        }
        assert_eq!(exact_routing_key(&[b'n'; NAME_BYTES_MAX + 1]), None);
    }

    #[test]
    fn a_redirecting_key_is_known_in_any_letter_case() {
        for (key, name) in [
            ("api_base", Some("api_base")),
            ("API_Key", Some("api_key")),
            ("ba\u{17F}e_url", Some("base_url")),
            ("litellm_call_id", Some("litellm_")),
            ("LiteLLM_", Some("litellm_")),
            ("litellm", None),
            ("li\u{212A}", None),
            ("éééééé", None),
            ("input", None),
        ] {
            assert_eq!(redirects(key), name, "{key}");
        }
    }
}
