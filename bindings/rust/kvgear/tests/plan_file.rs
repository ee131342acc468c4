//! Plan files: what the header alone decides; that latents answer right is tested on the C interface.
use kvgear::{Plan, Shape, Side, Status};

#[test]
fn plan_files() {
    let header = r#"{"__metadata__":{"kvgear.plan":"1","layers":"2","q_heads":"4","kv_heads":"2","head_dim":"32","recipes":"gear-4","fingerprint":"mine"}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    let path = std::env::temp_dir().join(format!("kvgear-plan-{}.safetensors", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    let shape = Shape { layers: 2, q_heads: 4, kv_heads: 2, head_dim: 32 };
    let plan = Plan::load(&path, Some(shape), "", b"mine").unwrap();
    assert_eq!(plan.latent(1, Side::K).unwrap(), None);
    assert_eq!(plan.latent(2, Side::K).unwrap_err().status(), Status::Invalid);
    let status = |result: kvgear::Result<Plan>| result.unwrap_err().status();
    assert_eq!(status(Plan::load(&path, None, "", b"yours")), Status::Invalid);
    assert_eq!(status(Plan::load(&path, None, "palu", b"")), Status::Invalid);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(status(Plan::load(&path, None, "", b"")), Status::Io);
}
