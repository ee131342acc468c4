//! The tensors of a safetensors file as f32.
use std::fmt::Display;
use std::path::{Path, PathBuf};

use kvgear::{Bf16, F16};
use safetensors::{Dtype, SafeTensors};

use super::Error;

pub struct Weights {
    path: PathBuf,
    file: Vec<u8>,
}

impl Weights {
    pub fn open(path: &Path) -> Result<Self, Error> {
        let weights = Self { path: path.into(), file: Vec::new() };
        let file = std::fs::read(path).map_err(|error| weights.refuse(&error))?;
        let weights = Self { file, ..weights };
        weights.tensors()?;
        Ok(weights)
    }

    fn tensors(&self) -> Result<SafeTensors<'_>, Error> {
        SafeTensors::deserialize(&self.file)
            .map_err(|error| self.refuse(&format_args!("this is no safetensors file: {error}")))
    }

    /// A tensor, which must exist, have this shape, and hold finite numbers.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let tensors = self.tensors()?;
        let tensor = tensors
            .tensor(name)
            .map_err(|_| self.refuse(&format_args!("there is no tensor {name:?}")))?;
        if tensor.shape() != shape {
            let found = tensor.shape();
            return Err(
                self.refuse(&format_args!("{name:?} has the shape {found:?}, not {shape:?}"))
            );
        }
        let data = tensor.data();
        let halves = || data.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let values: Vec<f32> = match tensor.dtype() {
            Dtype::F32 => {
                data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Dtype::F16 => halves().map(|bits| F16::from_bits(bits).to_f32()).collect(),
            Dtype::BF16 => halves().map(|bits| Bf16::from_bits(bits).to_f32()).collect(),
            other => {
                let known = "F32, F16 and BF16 are known";
                return Err(self.refuse(&format_args!("{name:?} is of type {other:?}; {known}")));
            }
        };
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        Err(self.refuse(&format_args!("{name:?} holds infinity or something that is no number")))
    }

    fn refuse(&self, what: &dyn Display) -> Error {
        Error::Model(format!("{}: {what}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(name: &str, file: &[u8]) -> Result<Vec<f32>, Error> {
        let path = std::env::temp_dir().join(format!("kvgear-{}-{name}", std::process::id()));
        std::fs::write(&path, file).unwrap();
        let result = Weights::open(&path).and_then(|weights| weights.get("x", &[2, 2]));
        std::fs::remove_file(&path).unwrap();
        result
    }

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    fn of_type(dtype: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let end = data.len();
        let entry = format!(r#""dtype": "{dtype}", "shape": {shape}, "data_offsets": [0, {end}]"#);
        file(&format!(r#"{{"__metadata__": {{"a": "b"}}, "x": {{{entry}}}}}"#), data)
    }

    #[test]
    fn every_type() {
        let data = [1f32, -2.0, 0.5, 3.0].map(f32::to_le_bytes).concat();
        assert_eq!(get("f32", &of_type("F32", "[2, 2]", &data)).unwrap(), [1.0, -2.0, 0.5, 3.0]);
        let data = [0x3C00u16, 0xC000, 0x3800, 1].map(u16::to_le_bytes).concat();
        let expected = [1.0, -2.0, 0.5, 2f32.powi(-24)];
        assert_eq!(get("f16", &of_type("F16", "[2, 2]", &data)).unwrap(), expected);
        let data = [0x3F80u16, 0xC000, 0x3F00, 0x4040].map(u16::to_le_bytes).concat();
        assert_eq!(get("bf16", &of_type("BF16", "[2, 2]", &data)).unwrap(), [1.0, -2.0, 0.5, 3.0]);
    }

    #[test]
    fn damaged_files() {
        let infinite = [0x3C00u16, 0, 0, 0x7C00].map(u16::to_le_bytes).concat();
        let cases = [
            ("no safetensors file", vec![1, 2, 3]),
            ("no safetensors file", (1u64 << 40).to_le_bytes().to_vec()),
            ("no safetensors file", file(r#"{"x""#, &[])),
            ("no tensor", file("{}", &[])),
            ("shape", of_type("F16", "[4]", &[0; 8])),
            ("of type I64", of_type("I64", "[2, 2]", &[0; 32])),
            ("no safetensors file", of_type("F16", "[2, 2]", &[0; 7])),
            ("infinity", of_type("F16", "[2, 2]", &infinite)),
        ];
        for (index, (words, damaged)) in cases.into_iter().enumerate() {
            let error = get(&format!("damaged-{index}"), &damaged).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
