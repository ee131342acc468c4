//! A small Llama-shaped decoder whose tokens are bytes. It computes everything itself but attention over the
//! cache, which is kvgear's.
mod math;
mod session;
mod weights;

use std::fmt;
use std::path::Path;

use kvgear::Shape;
use serde::Deserialize;

use math::Linear;
pub use session::{Listener, Session};
use weights::Weights;

/// What went wrong.
#[derive(Debug)]
pub enum Error {
    /// The files of the model are not what they should be.
    Model(String),
    /// The cache refused.
    Cache(kvgear::Error),
    /// Nobody waits for the answer any more.
    Gone,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(sentence) => f.write_str(sentence),
            Self::Cache(error) => error.fmt(f),
            Self::Gone => f.write_str("the client is gone"),
        }
    }
}

impl std::error::Error for Error {}

impl From<kvgear::Error> for Error {
    fn from(error: kvgear::Error) -> Self {
        Self::Cache(error)
    }
}

/// What config.json says, by Hugging Face's names.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    rms_norm_eps: f32,
    rope_theta: f64,
    max_position_embeddings: usize,
    tie_word_embeddings: bool,
    attention_bias: bool,
    use_sliding_window: bool,
}

/// The sizes and weights of a model.
#[derive(Debug)]
pub struct Model {
    hidden: usize,
    inner: usize,
    q_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    epsilon: f32,
    /// How long a text may be.
    pub positions: usize,
    embedding: Vec<f32>, // [vocabulary, hidden]
    head: Linear,
    final_norm: Vec<f32>,
    layers: Vec<Layer>,
    rotary: Vec<(f32, f32)>, // cosine and sine: [positions, head_dim / 2]
}

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    mlp_norm: Vec<f32>,
    q: Linear,
    k: Linear,
    v: Linear,
    output: Linear,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Model {
    /// Reads `config.json` and `model.safetensors` of a folder.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("config.json");
        let refuse = |what: &dyn fmt::Display| Error::Model(format!("{}: {what}", path.display()));
        let text = std::fs::read(&path).map_err(|e| refuse(&e))?;
        let c: Config = serde_json::from_slice(&text).map_err(|e| refuse(&e))?;
        if c.model_type != "llama"
            || c.attention_bias
            || c.use_sliding_window
            || c.vocab_size != 256
        {
            let known = "this is not a Llama model over bytes, without biases and sliding window";
            return Err(refuse(&known));
        }
        let sizes = [
            c.hidden_size,
            c.intermediate_size,
            c.num_hidden_layers,
            c.num_attention_heads,
            c.num_key_value_heads,
            c.head_dim,
            c.max_position_embeddings,
        ];
        if let Some(size) = sizes.iter().find(|&&size| size == 0 || size > 1 << 20) {
            return Err(refuse(&format_args!("it holds a size of {size}")));
        }
        if c.num_attention_heads % c.num_key_value_heads != 0 || c.head_dim % 2 != 0 {
            return Err(refuse(
                &"the query heads are no multiple of the KV heads, or head_dim is odd",
            ));
        }

        let weights = Weights::open(&folder.join("model.safetensors"))?;
        let (hidden, inner) = (c.hidden_size, c.intermediate_size);
        let (q_width, kv_width) =
            (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        let linear = |name: &str, outputs: usize, inputs: usize| {
            Ok::<_, Error>(Linear::pack(&weights.get(name, &[outputs, inputs])?, outputs, inputs))
        };
        let embedding = weights.get("model.embed_tokens.weight", &[c.vocab_size, hidden])?;
        let head = if c.tie_word_embeddings {
            Linear::pack(&embedding, c.vocab_size, hidden)
        } else {
            linear("lm_head.weight", c.vocab_size, hidden)?
        };
        let layer = |index: usize| {
            let name = |part: &str| format!("model.layers.{index}.{part}.weight");
            Ok::<_, Error>(Layer {
                attention_norm: weights.get(&name("input_layernorm"), &[hidden])?,
                mlp_norm: weights.get(&name("post_attention_layernorm"), &[hidden])?,
                q: linear(&name("self_attn.q_proj"), q_width, hidden)?,
                k: linear(&name("self_attn.k_proj"), kv_width, hidden)?,
                v: linear(&name("self_attn.v_proj"), kv_width, hidden)?,
                output: linear(&name("self_attn.o_proj"), hidden, q_width)?,
                gate: linear(&name("mlp.gate_proj"), inner, hidden)?,
                up: linear(&name("mlp.up_proj"), inner, hidden)?,
                down: linear(&name("mlp.down_proj"), hidden, inner)?,
            })
        };
        Ok(Self {
            hidden,
            inner,
            q_heads: c.num_attention_heads,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
            epsilon: c.rms_norm_eps,
            positions: c.max_position_embeddings,
            final_norm: weights.get("model.norm.weight", &[hidden])?,
            layers: (0..c.num_hidden_layers).map(layer).collect::<Result<_, _>>()?,
            rotary: rotary(c.max_position_embeddings, c.head_dim, c.rope_theta),
            embedding,
            head,
        })
    }

    /// What a kvgear plan for the model needs.
    pub fn shape(&self) -> Shape {
        Shape {
            layers: self.layers.len() as u32,
            q_heads: self.q_heads as u32,
            kv_heads: self.kv_heads as u32,
            head_dim: self.head_dim as u32,
        }
    }

    fn embed(&self, token: u8) -> &[f32] {
        &self.embedding[usize::from(token) * self.hidden..][..self.hidden]
    }

    /// Turns the heads of one token; pairs are `i` and `i + head_dim / 2`.
    fn rotate(&self, heads: &mut [f32], position: usize) {
        let half = self.head_dim / 2;
        let turns = &self.rotary[position * half..][..half];
        for head in heads.chunks_exact_mut(self.head_dim) {
            let (first, second) = head.split_at_mut(half);
            for ((a, b), (cosine, sine)) in first.iter_mut().zip(second).zip(turns) {
                (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
            }
        }
    }
}

fn rotary(positions: usize, head_dim: usize, theta: f64) -> Vec<(f32, f32)> {
    let half = head_dim / 2;
    let angle = |index: usize| {
        let (position, i) = (index / half, index % half);
        position as f64 * theta.powf(-2.0 * i as f64 / head_dim as f64)
    };
    (0..positions * half).map(|i| (angle(i).cos() as f32, angle(i).sin() as f32)).collect()
}
