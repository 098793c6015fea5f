//! What tokens cost: counted in dollars, estimated where they are not reported, and held to a budget.

use crate::support::{Gateway, Provider, Setup, binary, chat, own_address, until};

/// A dollar for a thousand tokens of prompt, two for a thousand of completion.
const PRICE: &str =
    "[[price]]\nmodel = \"sim/*\"\ninput_per_million_usd = 1000\noutput_per_million_usd = 2000\n";

fn gateway(provider: &Provider, more: &str) -> Gateway {
    Gateway::with(provider, &Setup { provider: more.to_owned(), ..Setup::default() })
}

#[track_caller]
fn counted(gateway: &Gateway, metric: &str, labels: &str, expect: f64) {
    until(&format!("{metric} {labels} {expect}"), || {
        let total = gateway.total(metric, labels);
        assert!(total <= expect + 1e-9, "{metric} {labels} is {total}");
        ((total - expect).abs() < 1e-9).then_some(())
    });
}

#[test]
fn what_is_reported_costs_what_its_price_says() {
    let provider = Provider::start();
    let gateway = gateway(&provider, PRICE);
    gateway.chat("sim,prompt=1000,completion=7").expect(200);
    gateway.stream("sim,prompt=500,completion=3").expect(200);
    counted(&gateway, "rw_cost_usd_total", "provider=\"sim\"", 1.014 + 0.506);
    assert!(gateway.total("rw_requests_without_price_total", "") == 0.0);
}

#[test]
fn what_has_no_price_costs_nothing_and_is_counted_as_such() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider);
    gateway.chat("sim,prompt=1000,completion=7").expect(200);
    gateway.chat("sim,status=400").expect(400);
    counted(&gateway, "rw_requests_without_price_total", "provider=\"sim\"", 1.0);
    assert!(gateway.metric("rw_cost_usd_total").is_empty());
}

#[test]
fn what_is_not_reported_is_estimated_and_says_so() {
    let provider = Provider::start();
    let gateway = gateway(&provider, PRICE);
    gateway.stream("sim,events=40,nousage").expect(200);
    gateway.chat("sim,nousage").expect(200);
    let estimated = until("an estimate", || {
        let of =
            |kind: &str| gateway.total("rw_tokens_total", &format!("type=\"{kind}\",source=\"estimate\""));
        let both = (of("prompt"), of("completion"));
        (both.0 > 0.0 && both.1 > 0.0).then_some(both)
    });
    assert!(estimated.0 < 200.0 && estimated.1 < 1_000.0, "{estimated:?}");
    assert!(gateway.total("rw_tokens_total", "source=\"reported\"") == 0.0);
    until("a cost", || (gateway.total("rw_cost_usd_total", "") > 0.0).then_some(()));
}

#[test]
fn estimates_can_be_switched_off() {
    let provider = Provider::start();
    let gateway = gateway(&provider, &format!("{PRICE}[usage]\nestimate = \"off\"\n"));
    gateway.stream("sim,events=40,nousage").expect(200);
    gateway.chat("sim,prompt=1000,completion=7").expect(200);
    counted(&gateway, "rw_tokens_total", "\"prompt\"", 1_000.0);
    assert!(gateway.total("rw_tokens_total", "source=\"estimate\"") == 0.0);
}

#[test]
fn a_budget_in_dollars_is_settled_by_what_was_used() {
    let provider = Provider::start();
    let limit = "[[limit]]\nby = \"gateway\"\nbudget_usd_day = 4.5\n";
    let gateway = gateway(&provider, &format!("{PRICE}{limit}"));
    // Each is taken to cost a little over a dollar before it is sent (512 tokens of answer), and costs two.
    gateway.chat("sim,prompt=1000,completion=500").expect(200);
    gateway.chat("sim,prompt=1000,completion=500").expect(200);
    let answer = gateway.chat("sim,prompt=1000,completion=500");
    assert_eq!(answer.refusal(429), "insufficient_quota");
    assert_eq!(answer.header("x-should-retry"), Some("false"), "{}", answer.head);
    counted(&gateway, "rw_cost_usd_total", "", 4.0);
    let mut client = gateway.client();
    assert_eq!(client.ask(chat("sim,events=3", true)).refusal(429), "insufficient_quota");
}

#[test]
fn the_catalogue_is_listed_and_a_configuration_checked() {
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(binary("ringway"))
            .arg("prices")
            .args(arguments)
            .env_remove("RINGWAY_CONFIG")
            .output()
            .expect("ringway runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (is_good, listed) = run(&["list", "--provider", "openai"]);
    assert!(is_good && listed.contains("openai/gpt-4o  2.5  10"), "{listed}");
    assert!(!run(&["list", "--provider", "nobody"]).0);
    let file = std::env::temp_dir().join(format!("ringway-e2e-prices-{}.toml", own_address()));
    let path = file.to_str().expect("a plain path");
    let provider = "[[provider]]\nname = \"sim\"\nbase_url = \"http://127.0.0.1:1\"\nmodels = [\"a\"]\n";
    for (more, expect, words) in [("", false, "no price: sim/a"), (PRICE, true, "1 of 1 configured models")] {
        std::fs::write(&file, format!("{provider}{more}")).expect("a temporary file can be written");
        let (is_good, said) = run(&["check", "--config", path]);
        assert!(is_good == expect && said.contains(words), "{said}");
    }
    std::fs::remove_file(&file).expect("it was there");
}
