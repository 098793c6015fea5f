//! What a run measured: counters and histograms per thread, merged, judged and printed.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::{Options, plan::Pace};

/// A generator that sends later than this (99th percentile) measures itself.
pub const LAG_NS_MAX: u64 = 1_000_000;

/// One thread's measurements.
#[derive(Debug)]
pub struct Tally {
    pub ttft: Histogram<u64>,
    pub gap: Histogram<u64>,
    pub e2e: Histogram<u64>,
    pub service: Histogram<u64>,
    pub delivery: Histogram<u64>,
    pub lag: Histogram<u64>,
    pub ok: u64,
    pub good: u64,
    pub events: u64,
    pub body_bytes: u64,
    /// Requests that had to wait for a connection.
    pub waited: u64,
    pub errors: BTreeMap<String, u64>,
    /// With the warm-up: what CPU time is divided by.
    pub all_requests: u64,
    pub all_events: u64,
}

impl Tally {
    /// Nothing measured yet.
    pub fn new() -> Self {
        Self {
            ttft: histogram(),
            gap: histogram(),
            e2e: histogram(),
            service: histogram(),
            delivery: histogram(),
            lag: histogram(),
            ok: 0,
            good: 0,
            events: 0,
            body_bytes: 0,
            waited: 0,
            errors: BTreeMap::new(),
            all_requests: 0,
            all_events: 0,
        }
    }

    /// Counts an error of a kind.
    pub fn error(&mut self, kind: &str) {
        *self.errors.entry(kind.to_owned()).or_default() += 1;
    }

    /// Adds another thread's measurements; nothing is lost, the histograms have the same buckets.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.ttft, &other.ttft),
            (&mut self.gap, &other.gap),
            (&mut self.e2e, &other.e2e),
            (&mut self.service, &other.service),
            (&mut self.delivery, &other.delivery),
            (&mut self.lag, &other.lag),
        ];
        for (mine, theirs) in pairs {
            let added = mine.add(theirs);
            debug_assert!(added.is_ok(), "all histograms have the same bounds");
        }
        self.ok += other.ok;
        self.good += other.good;
        self.events += other.events;
        self.body_bytes += other.body_bytes;
        self.waited += other.waited;
        self.all_requests += other.all_requests;
        self.all_events += other.all_events;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

/// A finished run.
#[derive(Debug)]
pub struct Report {
    pub tally: Tally,
    pub options: Options,
    /// The measured part, without the warm-up.
    pub measured_secs: f64,
}

impl Report {
    /// Why the run proves nothing; `None` if it is sound.
    pub fn flaw(&self) -> Option<String> {
        let lag_ns = self.tally.lag.value_at_quantile(0.99);
        if lag_ns > LAG_NS_MAX {
            return Some(format!("send lag p99 is {} ms: the generator itself was late", ms(lag_ns)));
        }
        if self.options.pace != Pace::Closed && self.tally.lag.is_empty() && self.tally.waited > 0 {
            return Some("no request found a free connection".to_owned());
        }
        (self.tally.ok == 0 && self.tally.events == 0).then(|| "nothing succeeded".to_owned())
    }

    /// The report as one object.
    pub fn to_json(&self) -> Value {
        let tally = &self.tally;
        let options = &self.options;
        let (mode, rate) = match options.pace {
            Pace::Closed => ("closed", None),
            Pace::Constant(rate) => ("constant", Some(rate)),
            Pace::Poisson(rate) => ("poisson", Some(rate)),
        };
        let mut latencies = Map::new();
        for (name, histogram) in self.histograms() {
            latencies.insert(format!("{name}_us"), spread(histogram));
        }
        json!({
            "run": {
                "url": options.url, "model": options.model, "stream": options.stream, "mode": mode, "rate": rate,
                "connections": options.connections, "measured_s": self.measured_secs,
                "warmup_s": options.warmup.as_secs_f64(), "cores": options.cores, "seed": options.seed,
            },
            "environment": environment(),
            "valid": self.flaw().is_none(),
            "flaw": self.flaw(),
            "requests": {"ok": tally.ok, "errors": self.errors(), "per_s": tally.ok as f64 / self.measured_secs,
                "good": tally.good, "waited_for_connection": tally.waited},
            "events": {"count": tally.events, "per_s": tally.events as f64 / self.measured_secs},
            "body_bytes": tally.body_bytes,
            "errors": tally.errors,
            "all": {"requests": tally.all_requests, "events": tally.all_events},
            "latency": latencies,
        })
    }

    /// The report for people.
    pub fn to_text(&self) -> String {
        let tally = &self.tally;
        let mut text = format!(
            "requests  {} ok · {} errors · {:.1}/s · {:.2} s\n",
            tally.ok,
            self.errors(),
            tally.ok as f64 / self.measured_secs,
            self.measured_secs
        );
        if tally.waited > 0 {
            text += &format!("waited    {} requests for a connection\n", tally.waited);
        }
        if self.options.slo.is_some() {
            let share = 100.0 * tally.good as f64 / (tally.ok + self.errors()).max(1) as f64;
            text += &format!("goodput   {:.1}/s · {share:.1} %\n", tally.good as f64 / self.measured_secs);
        }
        if tally.events > 0 {
            text +=
                &format!("events    {} · {:.1}/s\n", tally.events, tally.events as f64 / self.measured_secs);
        }
        text += "            p50 ms     p90 ms     p99 ms   p99.9 ms     max ms      count\n";
        for (name, histogram) in self.histograms() {
            if histogram.is_empty() {
                continue;
            }
            let at = |quantile| ms(histogram.value_at_quantile(quantile));
            text += &format!(
                "{name:<8}{:>10} {:>10} {:>10} {:>10} {:>10} {:>10}\n",
                at(0.5),
                at(0.9),
                at(0.99),
                at(0.999),
                ms(histogram.max()),
                histogram.len()
            );
        }
        for (kind, count) in &tally.errors {
            text += &format!("error     {kind}: {count}\n");
        }
        if let Some(flaw) = self.flaw() {
            text += &format!("INVALID   {flaw}\n");
        }
        text
    }

    fn errors(&self) -> u64 {
        self.tally.errors.values().sum()
    }

    fn histograms(&self) -> [(&'static str, &Histogram<u64>); 6] {
        let tally = &self.tally;
        [
            ("e2e", &tally.e2e),
            ("service", &tally.service),
            ("ttft", &tally.ttft),
            ("gap", &tally.gap),
            ("delivery", &tally.delivery),
            ("lag", &tally.lag),
        ]
    }
}

/// What the words of a report mean.
pub const DEFINITIONS: &str = "\
e2e       last byte − planned send (closed loop: the moment the connection was free)
service   last byte − actual send; e2e above it is queueing
ttft      first event with data (or first body byte) − planned send
gap       between consecutive events of one stream, as they arrived
delivery  arrival − the send stamp that the simulated provider put into the event (model word `stamp`)
lag       actual − planned send where a connection was free; p99 above 1 ms makes the run invalid
goodput   requests that kept --slo; itl in it is (e2e − ttft) / (events − 1)";

fn histogram() -> Histogram<u64> {
    // 0.1 µs to 10 minutes; what is slower is counted as ten minutes.
    Histogram::new_with_bounds(100, 600_000_000_000, 3).expect("the bounds are constant and sound")
}

fn spread(histogram: &Histogram<u64>) -> Value {
    if histogram.is_empty() {
        return Value::Null;
    }
    let us = |ns: u64| ns as f64 / 1e3;
    let at = |quantile| us(histogram.value_at_quantile(quantile));
    json!({"count": histogram.len(), "mean": histogram.mean() / 1e3, "min": us(histogram.min()), "p50": at(0.5),
        "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": us(histogram.max())})
}

fn ms(ns: u64) -> String {
    format!("{:.3}", ns as f64 / 1e6)
}

fn environment() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpus = read("/proc/cpuinfo");
    let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "cpu": cpu.trim_start_matches([' ', '\t', ':']),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "version": env!("CARGO_PKG_VERSION"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(change: impl FnOnce(&mut Tally)) -> Report {
        let mut tally = Tally::new();
        change(&mut tally);
        Report { tally, options: Options::to("http://127.0.0.1:1/v1", "sim"), measured_secs: 2.0 }
    }

    #[test]
    fn a_late_generator_makes_its_run_invalid() {
        let lagging = |late: u64| {
            report(|tally| {
                tally.ok = 100;
                tally.lag.saturating_record_n(50_000, 98);
                tally.lag.saturating_record_n(late, 2);
            })
        };
        assert_eq!(lagging(900_000).to_json()["valid"], true);
        assert_eq!(lagging(1_100_000).to_json()["valid"], false);
        assert!(lagging(1_100_000).to_text().contains("INVALID   send lag p99 is 1.1"));
    }

    #[test]
    fn a_run_without_success_is_invalid() {
        assert_eq!(report(|tally| tally.error("connect")).to_json()["valid"], false);
    }

    #[test]
    fn threads_add_up_without_loss() {
        let mut sum = Tally::new();
        for thread in 1..=3_u64 {
            let mut tally = Tally::new();
            tally.ok = thread;
            tally.e2e.saturating_record(thread * 1_000_000);
            tally.error("http_429");
            tally.all_events = 10;
            sum.add(&tally);
        }
        assert_eq!((sum.ok, sum.all_events, sum.errors["http_429"], sum.e2e.len()), (6, 30, 3, 3));
        assert!(sum.e2e.max() >= 3_000_000);
    }

    #[test]
    fn rates_are_of_the_measured_time() {
        let json = report(|tally| {
            tally.ok = 10;
            tally.events = 50;
            tally.gap.saturating_record(10_000_000);
        })
        .to_json();
        assert_eq!((&json["requests"]["per_s"], &json["events"]["per_s"]), (&json!(5.0), &json!(25.0)));
        assert_eq!(json["latency"]["gap_us"]["count"], 1);
        assert_eq!(json["latency"]["ttft_us"], Value::Null);
    }
}
