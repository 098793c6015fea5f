//! What OpenTelemetry's semantic conventions for generative AI call our endpoints and providers, and where their buckets
//! end.

/// `gen_ai.operation.name`. What has no name there keeps ours.
pub fn operation_name(operation: &'static str) -> &'static str {
    match operation {
        "responses" => "chat",
        "completion" => "text_completion",
        // `chat` and `embeddings` are the same there.
        other => other,
    }
}

/// `gen_ai.provider.name` of a provider by its profile, or where it has none by its name: any that is not known keeps its own.
pub fn provider_name(provider: &str) -> &str {
    match provider {
        "azure" => "azure.ai.openai",
        "gemini" | "google" => "gcp.gemini",
        "mistral" => "mistral_ai",
        "xai" => "x_ai",
        "moonshot" | "moonshot-cn" => "moonshot_ai",
        // The conventions have none for it.
        "dashscope" | "qwen" | "qwen-us" | "qwen-cn" => "alibaba.dashscope",
        other => other,
    }
}

/// Of `gen_ai.client.token.usage`: powers of four.
pub const TOKEN_BOUNDS: [u64; 14] = doubled(1, 2);

/// Of `gen_ai.client.operation.duration`, of `time_to_first_chunk` and of `time_per_output_chunk`, in microseconds: 10 ms and its
/// doubles.
pub const DURATION_BOUNDS_US: [u64; 14] = doubled(10_000, 1);

/// The bucket of `time_per_output_chunk` that a gap falls into, by the number of its bound; beyond the last there is none.
pub fn chunk_step(gap_us: u64) -> usize {
    let times = gap_us.saturating_sub(1) / DURATION_BOUNDS_US[0];
    times.checked_ilog2().map_or(0, |doubles| doubles as usize + 1)
}

const fn doubled(first: u64, times: u32) -> [u64; 14] {
    let mut bounds = [first; 14];
    let mut index = 1;
    while index < bounds.len() {
        bounds[index] = bounds[index - 1] << times;
        index += 1;
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::openai::endpoint::Endpoint;

    #[test]
    fn operations_are_those_of_the_conventions() {
        for (endpoint, expect) in [
            (Endpoint::ChatCompletions, "chat"),
            (Endpoint::Responses, "chat"),
            (Endpoint::Completions, "text_completion"),
            (Endpoint::Embeddings, "embeddings"),
            (Endpoint::AudioSpeech, "audio_speech"),
        ] {
            assert_eq!(operation_name(endpoint.operation()), expect);
        }
        assert_eq!((provider_name("openai"), provider_name("azure")), ("openai", "azure.ai.openai"));
    }

    #[test]
    fn a_gap_falls_into_the_first_bucket_that_it_does_not_exceed() {
        let bound = |gap_us: u64| DURATION_BOUNDS_US.partition_point(|bound| *bound < gap_us);
        for gap_us in
            DURATION_BOUNDS_US.into_iter().flat_map(|bound| [bound - 1, bound, bound + 1]).chain([0, 1])
        {
            assert_eq!(chunk_step(gap_us), bound(gap_us), "{gap_us}");
        }
        assert!(chunk_step(u64::MAX) >= DURATION_BOUNDS_US.len());
    }

    #[test]
    fn the_bounds_are_those_of_the_conventions() {
        assert_eq!((TOKEN_BOUNDS[1], TOKEN_BOUNDS[13]), (4, 67_108_864));
        assert_eq!((DURATION_BOUNDS_US[1], DURATION_BOUNDS_US[13]), (20_000, 81_920_000));
    }
}
