//! Plan files, and latents of a plan whose factors pick coordinates.
use kvgear::{AttendOptions, Cache, Plan, Runtime, RuntimeOptions, Shape, Side, Status};

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

#[test]
fn results_that_are_latents() {
    const DIM: usize = 32;
    const RANK: usize = 16;
    // One layer of two KV heads: keys whole, of values the first 16 coordinates of each head.
    let header = r#"{"__metadata__":{"kvgear.plan":"1","layers":"1","q_heads":"4","kv_heads":"2","head_dim":"32","recipes":"palu","fingerprint":"these","rope":"none"},"layers.0.k.latent":{"dtype":"F32","shape":[2,1,32,32],"data_offsets":[0,8192]},"layers.0.v.latent":{"dtype":"F32","shape":[2,1,16,32],"data_offsets":[8192,12288]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    for rank in [DIM, RANK] {
        for i in 0..2 * rank * DIM {
            bytes.extend(f32::from(u8::from(i / DIM % rank == i % DIM)).to_le_bytes());
        }
    }
    let path =
        std::env::temp_dir().join(format!("kvgear-latent-{}.safetensors", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    let plan = Plan::load(&path, None, "", b"these").unwrap();
    std::fs::remove_file(&path).unwrap();
    let latent = plan.latent(0, Side::V).unwrap().unwrap();
    assert_eq!((latent.rank as usize, latent.group_heads), (RANK, 1));

    let runtime = Runtime::new(&RuntimeOptions::new()).unwrap();
    let mut cache = Cache::new(&runtime, &plan).unwrap();
    let row: Vec<f32> = (0..100 * 2 * DIM).map(|i| (i * 7 % 64) as f32 / 32.0 - 1.0).collect();
    cache.append(0, &row, &row).unwrap();
    let (q, options) = (&row[..3 * 4 * DIM], AttendOptions::new());
    let (mut whole, mut latent) = (vec![0f32; 3 * 4 * DIM], vec![0f32; 3 * 4 * RANK]);
    cache.attend(0, q, &mut whole).unwrap();
    cache.attend_latent(0, q, &mut latent, &options).unwrap();
    for (whole, latent) in whole.chunks(DIM).zip(latent.chunks(RANK)) {
        assert_eq!(whole[..RANK], *latent);
        assert!(whole[RANK..].iter().all(|&x| x == 0.0) && latent.iter().any(|&x| x != 0.0));
    }
    let short = &mut latent[1..];
    let error = cache.attend_latent(0, q, short, &options).unwrap_err();
    assert!(error.status() == Status::Invalid && error.message().contains("out"), "{error}");

    let plain = Plan::new(plan.shape().unwrap(), "fp16").unwrap();
    let mut plain = Cache::new(&runtime, &plain).unwrap();
    plain.append(0, &row, &row).unwrap();
    let error = plain.attend_latent(0, q, &mut whole, &options).unwrap_err();
    assert!(error.message().contains("not latent"), "{error}");
}
