//! The HTTP side: completions in the usual shape, over conversations whose compressed caches live on between requests.
mod answer;
mod request;
pub mod sockets;
mod store;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{header, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post};
use axum::Router;
use kvgear::{Cache, Layers, Runtime, RuntimeOptions, Side, Stats, Status};
use serde_json::{json, Value};
use tokio::sync::{mpsc, Semaphore};
use tokio_stream::{wrappers::ReceiverStream, StreamExt};

use crate::model::{Error, Listener, Model, Session};
use answer::{Completion, Writer};
use request::Request;
use store::{new_id, Conversation, Store, Turn};

/// What a client may use.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of conversations that name none.
    pub recipe: String,
    /// Most tokens of one answer.
    pub max_tokens: usize,
    /// Most bytes of a request.
    pub max_body: usize,
    /// Most conversations that are kept.
    pub max_caches: usize,
    /// Most bytes of all caches; 0 = no limit.
    pub memory_budget: u64,
    /// Most requests that compute at the same time.
    pub parallel: usize,
    /// How long a client may take to send a request.
    pub patience: Duration,
}

/// Keeps conversations and answers requests.
#[derive(Debug)]
pub struct Service {
    options: Options,
    model: Arc<Model>,
    runtime: Arc<Runtime>,
    store: Store,
    slots: Arc<Semaphore>,
}

/// An answer that is none, with the HTTP status that says whose fault it is.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    sentence: String,
}

impl Refusal {
    fn new(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self { status, sentence: sentence.into() }
    }

    fn bad(sentence: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, sentence)
    }

    fn body(&self) -> Value {
        let client = self.status.is_client_error();
        let kind = if client { "invalid_request_error" } else { "server_error" };
        json!({"error": {"message": self.sentence, "type": kind}})
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Refusal {}

impl From<kvgear::Error> for Refusal {
    fn from(error: kvgear::Error) -> Self {
        let status = match error.status() {
            Status::Limit | Status::NoMemory => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Cache(error) => error.into(),
            other => Self::new(StatusCode::INTERNAL_SERVER_ERROR, other.to_string()),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = reply(self.status, &self.body());
        if self.status == StatusCode::REQUEST_TIMEOUT {
            // What of the request still comes is no request of its own.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn reply(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

type Shared = State<Arc<Service>>;

impl Service {
    /// Makes a service. Its caches end with it.
    pub fn new(model: Model, options: Options) -> Result<Self, Error> {
        let runtime = Runtime::new(&RuntimeOptions::new().memory_budget(options.memory_budget))?;
        let store = Store::new(options.max_caches);
        store.plan(model.shape(), &options.recipe)?;
        let slots = Arc::new(Semaphore::new(options.parallel));
        Ok(Self { model: Arc::new(model), runtime: Arc::new(runtime), store, slots, options })
    }

    /// The bytes that all caches hold.
    pub fn memory(&self) -> Result<u64, Error> {
        Ok(self.runtime.memory()?)
    }

    /// What answers requests.
    pub fn router(self: Arc<Self>) -> Router {
        // The sentences for what is not there.
        let only = |method: &'static str| {
            move |uri: Uri| async move {
                let sentence = format!("{} takes {method} only", uri.path());
                Refusal::new(StatusCode::METHOD_NOT_ALLOWED, sentence)
            }
        };
        let nothing = |uri: Uri| async move {
            let sentence = format!("there is nothing at {}; see the README", uri.path());
            Refusal::new(StatusCode::NOT_FOUND, sentence)
        };
        Router::new()
            .route("/v1/completions", post(complete).fallback(only("POST")))
            .route("/v1/caches", get(list).fallback(only("GET")))
            .route("/v1/caches/{id}", delete(remove).fallback(only("DELETE")))
            .route("/v1/caches/{id}/fork", post(fork).fallback(only("POST")))
            .route("/healthz", any(|| async { reply(StatusCode::OK, &json!({"status": "ok"})) }))
            .fallback(nothing)
            .layer(DefaultBodyLimit::max(self.options.max_body))
            .with_state(self)
    }

    /// Passes the continuation of a prompt on, without HTTP.
    pub fn continue_prompt(
        &self,
        prompt: &[u8],
        count: usize,
        listener: &mut dyn Listener,
    ) -> Result<(), Error> {
        let plan = self.store.plan(self.model.shape(), &self.options.recipe)?;
        let cache = Cache::shared(Arc::clone(&self.runtime), &plan)?;
        Session::new(Arc::clone(&self.model), cache).generate(prompt, count, listener)
    }

    /// The conversation that a request continues, or a new one, for this request alone.
    async fn conversation(&self, request: &Request) -> Result<Turn, Refusal> {
        if let Some(id) = request.cache() {
            return self.store.take(id).await;
        }
        let recipe = request.recipe().unwrap_or(&self.options.recipe);
        let plan =
            self.store.plan(self.model.shape(), recipe).map_err(|error| match error.status() {
                Status::Invalid | Status::Unsupported => Refusal::bad(error.to_string()),
                _ => error.into(),
            })?;
        let cache = Cache::shared(Arc::clone(&self.runtime), &plan)?;
        let session = Session::new(Arc::clone(&self.model), cache);
        Ok(Conversation::begin(recipe, session).await)
    }
}

async fn complete(
    State(service): Shared,
    request: axum::extract::Request,
) -> Result<Response, Refusal> {
    let request = request::receive(request, &service.options).await?;
    let kept = request.keep() || request.cache().is_some();
    if kept && request.cache().is_none() {
        service.store.room()?; // before the work, though only keep() decides
    }
    let turn = service.conversation(&request).await?;
    // The work is done on a fork, which takes the conversation's place when all went well: a request that fails or whose
    // client goes away leaves no trace.
    let mut work = turn.fork()?;
    let count = request.max_tokens;
    let pending = usize::from(work.pending.is_some());
    let total = work.length + pending + request.prompt().len() + count;
    let positions = service.model.positions;
    if total > positions {
        return Err(Refusal::bad(format!(
            "conversation, prompt and max_tokens make {total} tokens; the model has {positions} positions"
        )));
    }
    let slot = Arc::clone(&service.slots).acquire_owned().await;

    let answer = Completion::new(kept.then(|| turn.id().into()), turn.recipe().into());
    let stream = request.stream();
    let (to, mut from) = mpsc::channel(16);
    tokio::task::spawn_blocking(move || {
        let _slot = slot;
        let mut writer = Writer::new(to, answer, stream);
        let result = work.generate(request.prompt(), count, &mut writer).map_err(Refusal::from);
        let result = match result {
            Ok(()) if kept => service.store.keep(&turn, work),
            other => {
                drop(work);
                other
            }
        };
        drop(turn); // and the cache with it if nobody keeps it: before the answer, so that its memory is free by then
        match result {
            Ok(()) => writer.finish(request.prompt().len(), count),
            Err(refusal) => writer.fail(refusal),
        }
    });
    let failed =
        || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed in the service");
    let first = from.recv().await.ok_or_else(failed)??;
    if !stream {
        return Ok(([(header::CONTENT_TYPE, "application/json")], first).into_response());
    }
    let events = tokio_stream::once(Ok(first)).chain(ReceiverStream::new(from));
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(events)).into_response())
}

async fn list(State(service): Shared) -> Result<Response, Refusal> {
    let layers = u64::from(service.model.shape().layers);
    let mut data = vec![];
    for conversation in service.store.all() {
        let Some(s) = conversation.stats()? else { continue }; // deleted in between
        data.push(json!({
            "id": conversation.id(),
            "recipe": conversation.recipe(),
            "tokens": s.tokens / layers,
            "bits_per_element": s.bits_per_element,
            "bytes": sizes(&s),
        }));
    }
    let body = json!({"object": "list", "data": data, "bytes": service.runtime.memory()?});
    Ok(reply(StatusCode::OK, &body))
}

fn sizes(s: &Stats) -> Value {
    json!({
        "total": s.bytes_total,
        "codes": s.bytes_codes,
        "scales": s.bytes_scales,
        "low_rank": s.bytes_low_rank,
        "sparse": s.bytes_sparse,
        "window": s.bytes_window_allocated,
        "bookkeeping": s.bytes_bookkeeping,
        "shared": s.bytes_shared,
        "fp16": s.bytes_fp16,
    })
}

async fn fork(State(service): Shared, Path(id): Path<String>) -> Result<Response, Refusal> {
    let turn = service.store.take(&id).await?;
    let fork = Conversation::begin(turn.recipe(), turn.fork()?).await;
    service.store.insert(&fork)?;
    Ok(reply(StatusCode::CREATED, &json!({"id": fork.id()})))
}

async fn remove(State(service): Shared, Path(id): Path<String>) -> Result<StatusCode, Refusal> {
    service.store.take(&id).await?.end(&service.store);
    Ok(StatusCode::NO_CONTENT)
}

/// Every layer and both sides of a session's cache.
fn stats_of(session: &Session) -> kvgear::Result<Stats> {
    session.cache.stats(Layers::All, Side::Both)
}
