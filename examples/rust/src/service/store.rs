//! The conversations that are kept, and the plans of the recipes that were asked for.
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use kvgear::{Plan, Shape, Stats};
use tokio::sync::OwnedMutexGuard;

use super::{stats_of, Refusal};
use crate::model::Session;

const PLANS: usize = 64; // that are kept

/// A text and its cache. One request has its turn at a time; the others wait.
#[derive(Debug)]
pub struct Conversation {
    id: String,
    recipe: String,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// What the last request that went well left; statistics read it beside a request. None: deleted.
    session: Mutex<Option<Session>>,
}

/// A request's turn on a conversation.
#[derive(Debug)]
pub struct Turn {
    conversation: Arc<Conversation>,
    _guard: OwnedMutexGuard<()>,
}

#[derive(Debug)]
pub struct Store {
    limit: usize,
    conversations: Mutex<BTreeMap<String, Arc<Conversation>>>,
    plans: Mutex<HashMap<String, Arc<Plan>>>,
}

/// A panic elsewhere leaves nothing half-changed behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name that nobody can guess.
pub fn new_id() -> String {
    let mut bytes = [0u8; 12];
    getrandom::getrandom(&mut bytes).expect("the system has randomness");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Conversation {
    /// Begins one that nobody else knows yet, and takes its turn.
    pub async fn begin(recipe: &str, session: Session) -> Turn {
        let conversation = Arc::new(Self {
            id: new_id(),
            recipe: recipe.into(),
            turn: Arc::default(),
            session: Mutex::new(Some(session)),
        });
        Turn::wait(conversation).await
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn recipe(&self) -> &str {
        &self.recipe
    }

    /// None once it was deleted.
    pub fn stats(&self) -> kvgear::Result<Option<Stats>> {
        lock(&self.session).as_ref().map(stats_of).transpose()
    }
}

impl Turn {
    async fn wait(conversation: Arc<Conversation>) -> Self {
        let guard = Arc::clone(&conversation.turn).lock_owned().await;
        Self { conversation, _guard: guard }
    }

    pub fn id(&self) -> &str {
        &self.conversation.id
    }

    pub fn recipe(&self) -> &str {
        &self.conversation.recipe
    }

    /// A session of its own with the conversation's text.
    pub fn fork(&self) -> Result<Session, Refusal> {
        match lock(&self.conversation.session).as_ref() {
            Some(session) => Ok(session.fork()?),
            None => Err(missing(self.id())),
        }
    }

    /// Ends the conversation, and its cache.
    pub fn end(self, store: &Store) {
        lock(&store.conversations).remove(self.id());
        drop(lock(&self.conversation.session).take());
    }
}

fn missing(id: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("there is no cache {id:?}"))
}

impl Store {
    pub fn new(limit: usize) -> Self {
        Self { limit, conversations: Mutex::default(), plans: Mutex::default() }
    }

    /// The plan of a recipe text; the first ones are kept.
    pub fn plan(&self, shape: Shape, recipe: &str) -> kvgear::Result<Arc<Plan>> {
        let mut plans = lock(&self.plans);
        if let Some(plan) = plans.get(recipe) {
            return Ok(Arc::clone(plan));
        }
        let plan = Arc::new(Plan::new(shape, recipe)?);
        if plans.len() < PLANS {
            plans.insert(recipe.into(), Arc::clone(&plan));
        }
        Ok(plan)
    }

    /// Waits for a conversation's turn.
    pub async fn take(&self, id: &str) -> Result<Turn, Refusal> {
        let found = lock(&self.conversations).get(id).cloned();
        let turn = Turn::wait(found.ok_or_else(|| missing(id))?).await;
        let deleted = lock(&turn.conversation.session).is_none();
        if deleted {
            return Err(missing(id));
        }
        Ok(turn)
    }

    /// Refuses when no further conversation can be kept.
    pub fn room(&self) -> Result<(), Refusal> {
        self.room_in(&lock(&self.conversations))
    }

    fn room_in(&self, kept: &BTreeMap<String, Arc<Conversation>>) -> Result<(), Refusal> {
        if kept.len() < self.limit {
            return Ok(());
        }
        let limit = self.limit;
        Err(Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            format!("{limit} conversations are kept already, the most that this service does; delete one"),
        ))
    }

    /// Keeps a conversation from now on.
    pub fn insert(&self, turn: &Turn) -> Result<(), Refusal> {
        let mut kept = lock(&self.conversations);
        if !kept.contains_key(turn.id()) {
            self.room_in(&kept)?;
            kept.insert(turn.id().into(), Arc::clone(&turn.conversation));
        }
        Ok(())
    }

    /// Puts the result of a request into its conversation, which is kept from now on.
    pub fn keep(&self, turn: &Turn, session: Session) -> Result<(), Refusal> {
        self.insert(turn)?;
        let former = lock(&turn.conversation.session).replace(session);
        drop(former); // not behind the lock
        Ok(())
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<Arc<Conversation>> {
        lock(&self.conversations).values().cloned().collect()
    }
}
