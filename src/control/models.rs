//! The models that providers offer: fetched in the background, merged with those of the configuration and with the gateway's
//! own, published as an answer ready to send.
//!
//! A provider that can't be reached keeps the list it gave last; its configured models are listed in any case.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    base::{
        limits::{MODEL_BYTES_MAX, MODELS_FETCHES_MAX, MODELS_PER_PROVIDER_MAX},
        secret::Secret,
    },
    bridge::bulletin::Bulletin,
    control::log::Log,
    wire::openai::models::ModelList,
};

/// One provider, as far as its list of models is concerned.
#[derive(Debug)]
pub struct ModelSource {
    /// Its name: what its models' ids begin with.
    pub provider: Box<str>,
    /// Models of the configuration, without the provider's name.
    pub configured: Vec<Box<str>>,
    /// Where its own list is; `None` for one that has none.
    pub list: Option<ListAddress>,
}

/// Where and how a provider's list is fetched.
#[derive(Debug)]
pub struct ListAddress {
    /// `{base}/models`.
    pub url: String,
    /// Header that carries the credential, and its whole value.
    pub credential: Option<(String, Secret)>,
    /// Further headers that the provider wants.
    pub headers: Vec<(String, String)>,
    /// Whether the provider may be at a private address.
    pub private: bool,
    /// How its certificate is verified, as on the cores; `None` where the URL is plain http.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// Fetches the body of one list.
pub trait Fetch: Send + Sync + 'static {
    fn fetch(&self, list: &ListAddress) -> Result<Vec<u8>, String>;
}

/// The thread that fetches. It ends after this is dropped, when the fetches that run have ended.
pub struct Models {
    offers: mpsc::Sender<Offer>,
}

/// What a snapshot offers.
#[derive(Debug, Default)]
pub struct Offer {
    pub sources: Vec<ModelSource>,
    /// The gateway's own models, each with whose it is.
    pub own: Vec<(Box<str>, Box<str>)>,
}

impl Models {
    /// Begins to publish on `bulletin`. `interval` is [`MODELS_INTERVAL`](crate::base::limits::MODELS_INTERVAL) but in
    /// tests.
    pub fn start(
        fetch: Arc<dyn Fetch>,
        bulletin: Arc<Bulletin<ModelList>>,
        interval: Duration,
        log: Log,
    ) -> io::Result<Self> {
        let (offers, reloads) = mpsc::channel();
        let mut desk = Desk { fetch, bulletin, log, offer: Offer::default(), fetched: BTreeMap::new() };
        thread::Builder::new().name("rw-models".to_owned()).spawn(move || {
            loop {
                match reloads.recv_timeout(interval) {
                    Ok(offer) => desk.reload(offer),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                desk.refresh();
            }
        })?;
        Ok(Self { offers })
    }

    /// What the snapshot in force offers, in place of what was before: fetched at once.
    pub fn reload(&self, offer: Offer) {
        // The thread ends only after us.
        let _ = self.offers.send(offer);
    }
}

/// The thread's own.
struct Desk {
    fetch: Arc<dyn Fetch>,
    bulletin: Arc<Bulletin<ModelList>>,
    log: Log,
    offer: Offer,
    fetched: BTreeMap<Box<str>, Fetched>,
}

/// What is known of one provider's own list.
#[derive(Default)]
struct Fetched {
    models: Vec<Model>,
    /// Why the last fetch failed, so that it is said once.
    error: Option<String>,
}

impl Desk {
    fn reload(&mut self, offer: Offer) {
        self.offer = offer;
        let sources = &self.offer.sources;
        self.fetched.retain(|provider, _| sources.iter().any(|source| source.provider == *provider));
        // The configured ones are there at once, however long the rest takes.
        self.publish();
    }

    fn refresh(&mut self) {
        let listed: Vec<(&str, &ListAddress)> = self
            .offer
            .sources
            .iter()
            .filter_map(|source| Some((&*source.provider, source.list.as_ref()?)))
            .collect();
        for batch in listed.chunks(MODELS_FETCHES_MAX) {
            let fetch = &*self.fetch;
            let answers: Vec<_> = thread::scope(|scope| {
                let fetches: Vec<_> = batch
                    .iter()
                    .map(|(_, list)| scope.spawn(move || models_of(&fetch.fetch(list)?)))
                    .collect();
                fetches.into_iter().map(thread::ScopedJoinHandle::join).collect()
            });
            for ((provider, _), answer) in batch.iter().zip(answers) {
                let known = self.fetched.entry((*provider).into()).or_default();
                match answer.unwrap_or_else(|_| Err("the fetch panicked".to_owned())) {
                    Ok(models) => *known = Fetched { models, error: None },
                    Err(error) if known.error.as_ref() == Some(&error) => {}
                    Err(error) => {
                        self.log.warning(format_args!("fetching the models of {provider}: {error}"));
                        known.error = Some(error);
                    }
                }
            }
        }
        self.publish();
    }

    fn publish(&self) {
        let list = merge(&self.offer, &self.fetched);
        if self.bulletin.current().as_deref() != Some(&list) {
            self.bulletin.publish(Arc::new(list));
        }
    }
}

/// A model as a provider tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    id: Box<str>,
    created: u64,
    owned_by: Option<Box<str>>,
}

/// Reads a provider's list: OpenAI's `{"data": [{"id": …}]}`, or the bare array that some send. Entries that no request
/// could name are left out.
fn models_of(body: &[u8]) -> Result<Vec<Model>, String> {
    let list: Value = serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
    let entries = list.get("data").unwrap_or(&list).as_array().ok_or("not a list of models")?;
    let models = entries.iter().filter_map(|entry| {
        let id = entry.get("id")?.as_str().filter(|id| can_be_asked_for(id))?;
        let created = entry.get("created").and_then(Value::as_u64).unwrap_or(0);
        let owned_by = entry.get("owned_by").and_then(Value::as_str).map(Into::into);
        Some(Model { id: id.into(), created, owned_by })
    });
    Ok(models.take(MODELS_PER_PROVIDER_MAX).collect())
}

fn can_be_asked_for(id: &str) -> bool {
    !id.is_empty() && id.len() <= MODEL_BYTES_MAX && !id.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// All models: the gateway's own, then provider by provider in the configuration's order, its configured models before the
/// others, none twice.
fn merge(offer: &Offer, fetched: &BTreeMap<Box<str>, Fetched>) -> ModelList {
    let mut seen = HashSet::new();
    let mut models = Vec::new();
    let mut list = |id: Box<str>, created: u64, owned_by: &str| {
        if seen.insert(id.clone()) {
            let json = json!({"id": id, "object": "model", "created": created, "owned_by": owned_by});
            models.push((id, json.to_string()));
        }
    };
    for (id, owned_by) in &offer.own {
        list(id.clone(), 0, owned_by);
    }
    for ModelSource { provider, configured, .. } in &offer.sources {
        let told: &[Model] = fetched.get(provider).map_or(&[], |fetched| &fetched.models);
        let configured = configured.iter().map(|id| {
            let known = told.iter().find(|model| model.id == *id).cloned();
            known.unwrap_or_else(|| Model { id: id.clone(), created: 0, owned_by: None })
        });
        for Model { id, created, owned_by } in configured.chain(told.iter().cloned()) {
            let id = format!("{provider}/{id}").into_boxed_str();
            list(id, created, owned_by.as_deref().unwrap_or(provider));
        }
    }
    ModelList::new(models)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::control::lock;

    fn source(provider: &str, configured: &[&str], url: Option<&str>) -> ModelSource {
        let list = url.map(|url| ListAddress {
            url: url.to_owned(),
            credential: None,
            headers: Vec::new(),
            private: false,
            tls: None,
        });
        ModelSource {
            provider: provider.into(),
            configured: configured.iter().map(|id| (*id).into()).collect(),
            list,
        }
    }

    fn offer(sources: Vec<ModelSource>) -> Offer {
        Offer { sources, own: Vec::new() }
    }

    #[track_caller]
    fn check_read(body: &str, expect: Result<&[&str], &str>) {
        match (models_of(body.as_bytes()), expect) {
            (Ok(models), Ok(ids)) => {
                assert_eq!(models.iter().map(|model| &*model.id).collect::<Vec<_>>(), ids)
            }
            (Err(error), Err(start)) => assert!(error.starts_with(start), "{error}"),
            (got, expect) => panic!("{got:?} where {expect:?}"),
        }
    }

    #[test]
    fn a_list_is_read_and_what_nobody_can_ask_for_is_left_out() {
        check_read(
            r#"{"object":"list","data":[{"id":"gpt-4o"},{"id":"a/b:free"}]}"#,
            Ok(&["gpt-4o", "a/b:free"]),
        );
        check_read(r#"[{"id":"x","created":"soon"}]"#, Ok(&["x"]));
        check_read(
            r#"{"data":[{"id":""},{"id":7},{},null,{"id":"a b"},{"id":"a\u0000"},{"id":"ok"}]}"#,
            Ok(&["ok"]),
        );
        check_read(r#"{"data":[]}"#, Ok(&[]));
        check_read(r#"{"data":{}}"#, Err("not a list"));
        check_read(r#"{"error":"no"}"#, Err("not a list"));
        check_read("<html>", Err("not JSON"));
        check_read(&"[".repeat(100_000), Err("not JSON"));
        check_read(&format!(r#"[{{"id":"{}"}}]"#, "x".repeat(MODEL_BYTES_MAX + 1)), Ok(&[]));
    }

    #[test]
    fn configured_models_come_first_and_none_comes_twice() {
        let told = |id: &str, created| Model { id: id.into(), created, owned_by: Some("system".into()) };
        let models = vec![told("b", 5), told("a", 7), told("b", 9)];
        let fetched = BTreeMap::from([("p".into(), Fetched { models, error: None })]);
        let sources = vec![source("p", &["mine", "a"], None), source("q", &["only"], None)];
        let own = vec![("dynamic/r".into(), "ringway".into()), ("p/mine".into(), "p".into())];
        let list = merge(&Offer { sources, own }, &fetched);
        let body: Value = serde_json::from_slice(list.body()).expect("JSON");
        let model = |id, created, owned_by| json!({"id": id, "object": "model", "created": created, "owned_by": owned_by});
        let expect = [
            model("dynamic/r", 0, "ringway"),
            model("p/mine", 0, "p"),
            model("p/a", 7, "system"),
            model("p/b", 5, "system"),
            model("q/only", 0, "q"),
        ];
        assert_eq!(body, json!({"object": "list", "data": expect}));
        let one: Value = serde_json::from_slice(list.of("p/a").expect("listed")).expect("JSON");
        assert_eq!(one, expect[2]);
    }

    /// Answers each fetch with what the test sends it.
    struct TestFetch(Mutex<mpsc::Receiver<Result<Vec<u8>, String>>>);

    impl Fetch for TestFetch {
        fn fetch(&self, _: &ListAddress) -> Result<Vec<u8>, String> {
            lock(&self.0).recv().unwrap_or_else(|_| Err("the test is over".to_owned()))
        }
    }

    #[test]
    fn what_was_fetched_stays_while_the_provider_fails() {
        let (answer, answers) = mpsc::channel();
        let bulletin = Arc::new(Bulletin::new(0));
        let fetch = Arc::new(TestFetch(Mutex::new(answers)));
        let mut desk = Desk {
            fetch,
            bulletin: Arc::clone(&bulletin),
            log: Log::to(io::sink(), false),
            offer: Offer::default(),
            fetched: BTreeMap::new(),
        };
        let ids = || bulletin.current().map_or(0, |list| list.len());

        desk.reload(offer(vec![source("p", &["mine"], Some("http://p/v1/models"))]));
        assert_eq!(ids(), 1, "the configured one is there before the fetch");
        answer.send(Ok(br#"{"data":[{"id":"a"},{"id":"b"}]}"#.to_vec())).expect("heard");
        desk.refresh();
        assert_eq!((ids(), bulletin.generation()), (3, 2));
        for wrong in [Err("timeout".to_owned()), Ok(b"<html>".to_vec())] {
            answer.send(wrong).expect("heard");
            desk.refresh();
            assert_eq!((ids(), bulletin.generation()), (3, 2), "nothing new, nothing published");
        }
        desk.reload(offer(vec![source("q", &["other"], None)]));
        assert_eq!((ids(), bulletin.generation()), (1, 3));
        assert!(bulletin.current().is_some_and(|list| list.of("q/other").is_some()));
    }

    #[test]
    fn lists_are_fetched_after_a_reload_and_every_interval() {
        let (answer, answers) = mpsc::sync_channel(0);
        let fetch = Arc::new(Rendezvous(Mutex::new(answers)));
        let log = Log::to(io::sink(), false);
        let models = Models::start(fetch, Arc::new(Bulletin::new(0)), Duration::from_millis(1), log)
            .expect("a thread");
        models.reload(offer(vec![source("p", &[], Some("http://p/v1/models"))]));
        for _ in 0..3 {
            // Returns when a fetch has taken it.
            answer.send(()).expect("a fetch");
        }
    }

    /// Each fetch waits for the test.
    struct Rendezvous(Mutex<mpsc::Receiver<()>>);

    impl Fetch for Rendezvous {
        fn fetch(&self, _: &ListAddress) -> Result<Vec<u8>, String> {
            lock(&self.0).recv().map(|()| b"[]".to_vec()).map_err(|_| "the test is over".to_owned())
        }
    }
}
