//! What tokens cost, in whole nano-dollars: what is not known has no cost, and never costs nothing.

use crate::{base::money::NanoUsd, config::price::Price};

/// Tokens to be paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub prompt: u64,
    pub completion: u64,
    /// Part of `prompt`.
    pub cached: u64,
    /// Part of `completion`.
    pub reasoning: u64,
    /// Part of `prompt`.
    pub audio_prompt: u64,
    /// Part of `completion`.
    pub audio_completion: u64,
}

/// Prices are for so many tokens.
const TOKENS: u64 = 1_000_000;

/// What `used` costs, to the nearest nano-dollar. `None`: something was put out that has no price, or it is more than can
/// be counted.
pub fn cost(price: &Price, used: Used) -> Option<NanoUsd> {
    let rates = price.rates_for(used.prompt);
    let output = match rates.output {
        Some(output) => output,
        None if used.completion == 0 => NanoUsd(0),
        None => return None,
    };
    // A provider may report more of a part than of the whole: nothing is charged twice, and nothing negative.
    let cached = used.cached.min(used.prompt);
    let audio_prompt = used.audio_prompt.min(used.prompt - cached);
    let reasoning = used.reasoning.min(used.completion);
    let audio_completion = used.audio_completion.min(used.completion - reasoning);
    let parts = [
        (used.prompt - cached - audio_prompt, rates.input),
        (cached, rates.cached.unwrap_or(rates.input)),
        (audio_prompt, rates.audio_input.unwrap_or(rates.input)),
        (used.completion - reasoning - audio_completion, output),
        (reasoning, rates.reasoning.unwrap_or(output)),
        (audio_completion, rates.audio_output.unwrap_or(output)),
    ];
    let narrow = parts
        .into_iter()
        .try_fold(TOKENS / 2, |sum, (tokens, rate)| sum.checked_add(tokens.checked_mul(rate.0)?));
    match narrow {
        Some(sum) => Some(NanoUsd(sum / TOKENS)),
        None => wide(parts),
    }
}

/// What costs more than thousands of dollars.
#[cold]
fn wide(parts: [(u64, NanoUsd); 6]) -> Option<NanoUsd> {
    let sum = parts.into_iter().try_fold(u128::from(TOKENS / 2), |sum, (tokens, rate)| {
        sum.checked_add(u128::from(tokens).checked_mul(u128::from(rate.0))?)
    });
    u64::try_from(sum? / u128::from(TOKENS)).ok().map(NanoUsd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::price::{Rates, Tier};

    fn usd(text: &str) -> NanoUsd {
        NanoUsd::parse(text).expect("an amount")
    }

    fn price() -> Price {
        let rates = Rates { input: usd("2.5"), output: Some(usd("10")), ..Rates::default() };
        Price { rates, ..Price::default() }
    }

    #[track_caller]
    fn check(price: &Price, used: Used, expect: Option<&str>) {
        assert_eq!(cost(price, used).map(|cost| cost.to_string()).as_deref(), expect, "{used:?}");
    }

    #[test]
    fn each_kind_has_its_price_or_that_of_the_whole_it_is_part_of() {
        let used = Used { prompt: 1_000, completion: 100, ..Used::default() };
        check(&price(), used, Some("0.0035"));
        let parts = Used { cached: 400, reasoning: 60, audio_prompt: 100, audio_completion: 10, ..used };
        check(&price(), parts, Some("0.0035"));
        let rates = Rates {
            cached: Some(usd("1.25")),
            reasoning: Some(usd("20")),
            audio_input: Some(usd("40")),
            audio_output: Some(usd("80")),
            ..price().rates
        };
        // 500 × 2.5 + 400 × 1.25 + 100 × 40 + 30 × 10 + 60 × 20 + 10 × 80, a million of each
        check(&Price { rates, ..price() }, parts, Some("0.00805"));
        check(&price(), Used::default(), Some("0"));
    }

    #[test]
    fn a_nano_dollar_is_rounded_to_the_nearest() {
        let rates = Rates { input: NanoUsd(1), output: Some(NanoUsd(0)), ..Rates::default() };
        let tiny = Price { rates, ..Price::default() };
        for (prompt, nanos) in [(499_999, "0"), (500_000, "0.000000001"), (1_499_999, "0.000000001")] {
            check(&tiny, Used { prompt, ..Used::default() }, Some(nanos));
        }
    }

    #[test]
    fn the_whole_request_costs_what_its_length_says() {
        let dearer = Rates { input: usd("5"), output: Some(usd("15")), ..Rates::default() };
        let tiered = Price { tiers: [Tier { above: 200_000, rates: dearer }].into(), ..price() };
        let used = |prompt| Used { prompt, completion: 1_000, ..Used::default() };
        check(&tiered, used(200_000), Some("0.51"));
        check(&tiered, used(200_001), Some("1.015005"));
    }

    #[test]
    fn what_is_not_known_has_no_cost() {
        let rates = Rates { input: usd("2.5"), ..Rates::default() };
        let embedding = Price { rates, ..Price::default() };
        check(&embedding, Used { prompt: 4, ..Used::default() }, Some("0.00001"));
        check(&embedding, Used { prompt: 4, completion: 1, ..Used::default() }, None);
    }

    #[test]
    fn a_sum_that_needs_wide_arithmetic_is_as_exact() {
        let rates = Rates { input: NanoUsd(1 << 40), output: Some(NanoUsd(1)), ..Rates::default() };
        let sum = |tokens: u128| u64::try_from((tokens * (1 << 40) + 500_000) / 1_000_000).ok();
        for prompt in [1, (1 << 24) - 1, 1 << 24, (1 << 24) + 1, 1 << 43, 1 << 60] {
            let used = Used { prompt, ..Used::default() };
            let cost = cost(&Price { rates, ..price() }, used);
            assert_eq!(cost, sum(prompt.into()).map(NanoUsd), "{prompt}");
        }
    }

    #[test]
    fn no_report_of_a_provider_overflows_or_costs_less_than_nothing() {
        let all = Used {
            prompt: u64::MAX,
            completion: u64::MAX,
            cached: u64::MAX,
            reasoning: u64::MAX,
            audio_prompt: u64::MAX,
            audio_completion: u64::MAX,
        };
        check(&price(), all, None);
        check(
            &price(),
            Used { prompt: 10, cached: u64::MAX, audio_prompt: u64::MAX, ..Used::default() },
            Some("0.000025"),
        );
        check(
            &price(),
            Used { completion: 1, reasoning: 9, audio_completion: 9, ..Used::default() },
            Some("0.00001"),
        );
    }
}
