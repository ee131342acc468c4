//! kvgear-service answers completions over HTTP with a small model, and keeps the caches of its conversations compressed.
use std::error::Error;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kvgear_service::model::{self, Listener, Model};
use kvgear_service::service::sockets::{self, Clients};
use kvgear_service::service::{Options, Service};
use tokio::net::TcpListener;
use tokio::signal::unix::{signal, SignalKind};

const USAGE: &str =
    "  --listen ADDRESS       address to listen on; port 0 takes a free one (127.0.0.1:8080)
  --model FOLDER         folder with config.json and model.safetensors (../models/tiny)
  --prompt TEXT          continue this text and exit, instead of listening
  --max-tokens N         most tokens of one answer (256)
  --recipe RECIPE        recipe of conversations that name none (gear-4)
  --max-caches N         most conversations that are kept (256)
  --memory-budget BYTES  most bytes of all caches; 0 = no limit (0)
  --parallel N           most requests that compute at the same time (the processors)
  --max-clients N        most connections at a time; further ones wait (1024)
  --client-timeout SECONDS  how long a client may take to send a request, or not take what it is sent (30)
  --drain SECONDS        how long SIGTERM waits for the requests under way (30)
";

struct Flags {
    listen: String,
    model: PathBuf,
    prompt: Option<String>,
    drain: Duration,
    max_clients: usize,
    options: Options,
}

/// The flags, or None when only help was asked for.
fn flags(mut arguments: impl Iterator<Item = String>) -> Result<Option<Flags>, Box<dyn Error>> {
    let mut flags = Flags {
        listen: "127.0.0.1:8080".into(),
        model: "../models/tiny".into(),
        prompt: None,
        drain: Duration::from_secs(30),
        max_clients: 1024,
        options: Options {
            recipe: "gear-4".into(),
            max_tokens: 256,
            max_body: 1 << 20,
            max_caches: 256,
            memory_budget: 0,
            parallel: std::thread::available_parallelism().map_or(1, usize::from),
            patience: Duration::from_secs(30),
        },
    };
    while let Some(argument) = arguments.next() {
        let name = argument.strip_prefix("--").or(argument.strip_prefix('-'));
        let (name, value) = match name.unwrap_or_default().split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (name.unwrap_or_default(), None),
        };
        if name == "help" || name == "h" {
            return Ok(None);
        }
        if !USAGE.contains(&format!("  --{name} ")) {
            return Err(format!("there is no flag {argument:?}; see --help").into());
        }
        let value = value.or_else(|| arguments.next());
        let value = value.ok_or_else(|| format!("--{name} needs a value; see --help"))?;
        let number = || {
            let number = value.parse::<u64>();
            number.map_err(|_| format!("--{name} is {value:?}; it must be a whole number"))
        };
        let positive = || match number()? as usize {
            0 => Err(format!("--{name} must be at least 1")),
            number => Ok(number),
        };
        match name {
            "listen" => flags.listen = value,
            "model" => flags.model = value.into(),
            "prompt" => flags.prompt = Some(value),
            "recipe" => flags.options.recipe = value,
            "max-tokens" => flags.options.max_tokens = positive()?,
            "max-caches" => flags.options.max_caches = number()? as usize,
            "memory-budget" => flags.options.memory_budget = number()?,
            "max-clients" => flags.max_clients = positive()?.min(1 << 20),
            "client-timeout" => flags.options.patience = Duration::from_secs(positive()? as u64),
            "parallel" => flags.options.parallel = positive()?.min(1024),
            _ => flags.drain = Duration::from_secs(number()?),
        }
    }
    Ok(Some(flags))
}

/// Writes what is generated to standard output.
struct Output(std::io::Stdout);

impl Listener for Output {
    fn put(&mut self, token: u8) -> Result<(), model::Error> {
        let written = self.0.write_all(&[token]).and_then(|()| self.0.flush());
        written.map_err(|_| model::Error::Gone)
    }
}

fn main() {
    let result = flags(std::env::args().skip(1)).and_then(|flags| match flags {
        Some(flags) => run(flags),
        None => {
            print!("{USAGE}");
            Ok(())
        }
    });
    if let Err(error) = result {
        eprintln!("kvgear-service: {error}");
        std::process::exit(1); // at once: what is still under way ends with the process
    }
}

fn run(flags: Flags) -> Result<(), Box<dyn Error>> {
    let count = flags.options.max_tokens;
    let parallel = flags.options.parallel;
    let clients = Clients { most: flags.max_clients, patience: flags.options.patience };
    let service = Arc::new(Service::new(Model::load(&flags.model)?, flags.options)?);
    if let Some(prompt) = flags.prompt {
        let output = &mut Output(std::io::stdout());
        return Ok(service.continue_prompt(prompt.as_bytes(), count, output)?);
    }
    // As many threads as may compute at once, and always the same ones: an allocator keeps memory for each
    // thread that it has seen, and what the last one freed is of no use to the next.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(parallel.min(4))
        .max_blocking_threads(parallel)
        .thread_keep_alive(Duration::from_secs(365 * 24 * 3600))
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(&service, &flags.listen, clients, flags.drain));
    if result.is_err() {
        runtime.shutdown_background();
        return result;
    }
    drop(runtime);
    drop(service);
    eprintln!("kvgear-service: drained");
    Ok(())
}

async fn serve(
    service: &Arc<Service>,
    listen: &str,
    clients: Clients,
    drain: Duration,
) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let (stopped, stop) = (asked_to_stop()?, asked_to_stop()?);
    let stop = async {
        stop.await;
        eprintln!("kvgear-service: draining");
    };
    let patience = async {
        stopped.await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        () = sockets::serve(listener, Arc::clone(service).router(), clients, stop) => Ok(()),
        () = patience => Err(format!("requests are still under way after {} s", drain.as_secs()).into()),
    }
}

/// Waits for SIGTERM or SIGINT.
fn asked_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
