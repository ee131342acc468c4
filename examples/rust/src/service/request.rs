//! The body of `POST /v1/completions`, and what may be wrong with it.
use axum::body::{Bytes, HttpBody};
use axum::extract::FromRequest;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Map;

use super::{Options, Refusal};

/// What JSON says. A field that is null counts as left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fields {
    prompt: Option<String>,
    max_tokens: Option<i64>,
    temperature: Option<f64>,
    stream: Option<bool>,
    recipe: Option<String>, // of a new conversation
    cache: Option<String>,  // the conversation to continue
    keep: Option<bool>,     // keep a new conversation for later requests
}

/// A request that can be tried.
#[derive(Debug)]
pub struct Request {
    fields: Fields,
    pub max_tokens: usize,
}

fn named(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

impl Request {
    pub fn prompt(&self) -> &[u8] {
        self.fields.prompt.as_deref().unwrap_or_default().as_bytes()
    }

    pub fn recipe(&self) -> Option<&str> {
        named(&self.fields.recipe)
    }

    pub fn cache(&self) -> Option<&str> {
        named(&self.fields.cache)
    }

    pub fn keep(&self) -> bool {
        self.fields.keep.unwrap_or(false)
    }

    pub fn stream(&self) -> bool {
        self.fields.stream.unwrap_or(false)
    }
}

/// Waits for a request.
pub async fn receive(
    request: axum::extract::Request,
    options: &Options,
) -> Result<Request, Refusal> {
    let too_long = || {
        let sentence = format!("the request is longer than {} bytes", options.max_body);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, sentence)
    };
    if request.body().size_hint().lower() > options.max_body as u64 {
        return Err(too_long()); // it says so itself
    }
    let patience = options.patience;
    let body = tokio::time::timeout(patience, Bytes::from_request(request, &())).await;
    let body = body.map_err(|_| {
        let patience = patience.as_secs_f64();
        let sentence = format!("the request did not arrive within {patience} s; send it faster");
        Refusal::new(StatusCode::REQUEST_TIMEOUT, sentence)
    })?;
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_long(),
        _ => Refusal::bad(format!("the request does not arrive: {rejection}")),
    })?;
    read(&body, options)
}

fn read(body: &[u8], options: &Options) -> Result<Request, Refusal> {
    // By way of a map: a struct would take an array as well.
    let fields: Fields = serde_json::from_slice::<Map<_, _>>(body)
        .and_then(|map| serde_json::from_value(map.into()))
        .map_err(|error| {
            Refusal::bad(format!("the request is no JSON of a completion: {error}"))
        })?;
    match &fields {
        Fields { prompt: None, .. } => return Err(Refusal::bad("the request has no prompt")),
        Fields { prompt: Some(text), .. } if text.is_empty() => {
            return Err(Refusal::bad("the prompt is empty"));
        }
        Fields { temperature: Some(t), .. } if *t != 0.0 => {
            return Err(Refusal::bad(format!(
                "temperature is {t}; this service takes the likeliest token, which is temperature 0"
            )));
        }
        Fields { cache, recipe, .. } if named(cache).is_some() && named(recipe).is_some() => {
            return Err(Refusal::bad(
                "a conversation keeps its recipe; give cache or recipe, not both",
            ));
        }
        _ => {}
    }
    let most = options.max_tokens;
    let wanted = fields.max_tokens.unwrap_or(most.min(16) as i64);
    match usize::try_from(wanted) {
        Ok(max_tokens) if (1..=most).contains(&max_tokens) => Ok(Request { fields, max_tokens }),
        _ => Err(Refusal::bad(format!("max_tokens is {wanted}; it may be 1 to {most}"))),
    }
}
