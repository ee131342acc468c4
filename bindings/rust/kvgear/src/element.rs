//! Element types of tensors: which Rust types may lie in a buffer, and which dtype each is for C.
use std::fmt;

use crate::Dtype;

mod sealed {
    pub trait Sealed {}
}

/// A type that tensors consist of: `f32`, [`F16`], [`Bf16`], and with the feature `half` also
/// `half::f16` and `half::bf16`. The buffer's type decides the dtype, so the two cannot disagree.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// What C calls this type.
    const DTYPE: Dtype;
}

macro_rules! element {
    ($type:ty, $dtype:ident) => {
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;
        }
    };
}

element!(f32, F32);
element!(F16, F16);
element!(Bf16, Bf16);
#[cfg(feature = "half")]
element!(half::f16, F16);
#[cfg(feature = "half")]
element!(half::bf16, Bf16);

macro_rules! sixteen_bits {
    ($(#[$doc:meta])* $name:ident, $from:ident, $to:ident) => {
        $(#[$doc])*
        ///
        /// A storage type: it converts and does no arithmetic. Two are equal when their bits are.
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        #[repr(transparent)]
        pub struct $name(u16);

        impl $name {
            /// From its bits.
            pub const fn from_bits(bits: u16) -> Self {
                Self(bits)
            }

            /// Its bits.
            pub const fn to_bits(self) -> u16 {
                self.0
            }

            /// The nearest value, ties to even. What is too large becomes infinite.
            pub fn from_f32(value: f32) -> Self {
                Self($from(value))
            }

            /// The same value.
            pub fn to_f32(self) -> f32 {
                $to(self.0)
            }

            /// Bits seen as values, without a copy.
            pub fn from_bits_slice(bits: &[u16]) -> &[Self] {
                // SAFETY: the type is a transparent u16.
                unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len()) }
            }

            /// Bits seen as values that can be written, without a copy.
            pub fn from_bits_slice_mut(bits: &mut [u16]) -> &mut [Self] {
                // SAFETY: the type is a transparent u16, and every u16 is a value.
                unsafe { std::slice::from_raw_parts_mut(bits.as_mut_ptr().cast(), bits.len()) }
            }
        }

        impl From<$name> for f32 {
            fn from(value: $name) -> f32 {
                value.to_f32()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.to_f32().fmt(f)
            }
        }
    };
}

sixteen_bits! {
    /// IEEE binary16: 5 bits of exponent, 10 of fraction.
    F16, f16_from_f32, f16_to_f32
}

sixteen_bits! {
    /// bfloat16: the upper half of a binary32.
    Bf16, bf16_from_f32, bf16_to_f32
}

fn f16_from_f32(value: f32) -> u16 {
    const INFINITE: u32 = 0x7F80_0000; // of binary32
    const TOO_LARGE: u32 = 0x477F_F000; // 65520, half way between the largest value and 65536
    const NORMAL: u32 = 0x3880_0000; // 2^-14
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let size = bits & 0x7FFF_FFFF;
    let magnitude = if size > INFINITE {
        0x7E00 | (size >> 13) as u16 & 0x01FF // NaN, made quiet
    } else if size >= TOO_LARGE {
        0x7C00
    } else if size >= NORMAL {
        let to_even = (size >> 13) & 1;
        ((size - ((127 - 15) << 23) + 0x0FFF + to_even) >> 13) as u16
    } else {
        // In 0.5 to 1 a binary32 counts in steps of 2^-24, which are those of a small binary16.
        ((f32::from_bits(size) + 0.5).to_bits() - 0.5f32.to_bits()) as u16
    };
    sign | magnitude
}

fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(bits >> 10) & 0x1F, u32::from(bits & 0x03FF));
    let magnitude = match exponent {
        0 => (fraction as f32 / 16_777_216.0).to_bits(), // in steps of 2^-24
        31 => 0x7F80_0000 | fraction << 13,
        _ => (exponent + 127 - 15) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

fn bf16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x0040; // quiet, and not infinite
    }
    let to_even = (bits >> 16) & 1;
    ((bits + 0x7FFF + to_even) >> 16) as u16
}

fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    // All 65536 of them; a sample where an interpreter runs the test.
    fn all_bits() -> impl Iterator<Item = u16> {
        (0..=u16::MAX).step_by(if cfg!(miri) { 251 } else { 1 })
    }

    #[test]
    fn every_f16_comes_back() {
        for bits in all_bits() {
            let value = F16::from_bits(bits).to_f32();
            let back = F16::from_f32(value).to_bits();
            if value.is_nan() {
                assert_eq!(back, bits | 0x0200);
            } else {
                assert_eq!(back, bits);
            }
        }
    }

    #[test]
    fn every_bf16_comes_back() {
        for bits in all_bits() {
            let value = Bf16::from_bits(bits).to_f32();
            let back = Bf16::from_f32(value).to_bits();
            assert_eq!(back, if value.is_nan() { bits | 0x0040 } else { bits });
        }
    }

    /// Between two neighbours the nearer one, and in the middle the even one.
    fn rounds(to_f32: fn(u16) -> f32, from_f32: fn(f32) -> u16, infinite: u16) {
        for low in (0..infinite - 1).step_by(if cfg!(miri) { 997 } else { 1 }) {
            let (a, b) = (f64::from(to_f32(low)), f64::from(to_f32(low + 1)));
            let middle = ((a + b) / 2.0) as f32;
            let even = if low % 2 == 0 { low } else { low + 1 };
            assert_eq!(from_f32(middle), even, "{low:#x}");
            if low > 0 {
                assert_eq!(from_f32(f32::from_bits(middle.to_bits() - 1)), low);
                assert_eq!(from_f32(-f32::from_bits(middle.to_bits() + 1)), (low + 1) | 0x8000);
            }
        }
    }

    #[test]
    fn f16_rounds_to_nearest_even() {
        rounds(f16_to_f32, f16_from_f32, 0x7C00);
        assert_eq!(F16::from_f32(65519.996).to_bits(), 0x7BFF);
        assert_eq!(F16::from_f32(65520.0).to_bits(), 0x7C00);
        assert_eq!(F16::from_f32(f32::NEG_INFINITY).to_bits(), 0xFC00);
        assert_eq!(F16::from_f32(1e-30).to_bits(), 0);
        assert_eq!(F16::from_f32(-0.0).to_bits(), 0x8000);
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        // Below 2^-126 the middle of two values is one of binary32 as well.
        rounds(bf16_to_f32, bf16_from_f32, 0x7F80);
        assert_eq!(Bf16::from_f32(f32::MAX).to_bits(), 0x7F80);
        assert_eq!(Bf16::from_f32(f32::INFINITY).to_bits(), 0x7F80);
    }

    #[test]
    fn slices_are_seen_without_a_copy() {
        let mut bits = [0x3C00, 0x4000];
        assert_eq!(F16::from_bits_slice(&bits).as_ptr().cast(), bits.as_ptr());
        assert_eq!(f32::from(F16::from_bits_slice(&bits)[1]), 2.0);
        F16::from_bits_slice_mut(&mut bits)[0] = F16::from_f32(-1.5);
        assert_eq!(bits[0], 0xBE00);
        Bf16::from_bits_slice_mut(&mut bits)[1] = Bf16::from_f32(1.0);
        assert_eq!(format!("{:?}", Bf16::from_bits_slice(&bits)[1]), "1.0");
    }

    #[test]
    fn dtypes() {
        assert_eq!([f32::DTYPE, F16::DTYPE, Bf16::DTYPE], [Dtype::F32, Dtype::F16, Dtype::Bf16]);
    }

    #[cfg(feature = "half")]
    #[test]
    fn the_crate_half_agrees() {
        assert_eq!([half::f16::DTYPE, half::bf16::DTYPE], [Dtype::F16, Dtype::Bf16]);
        let step = if cfg!(miri) { 40_000_003 } else { 4099 };
        for bits in (0..=u32::MAX).step_by(step) {
            let value = f32::from_bits(bits);
            assert_eq!(F16::from_f32(value).to_bits(), half::f16::from_f32(value).to_bits());
            assert_eq!(Bf16::from_f32(value).to_bits(), half::bf16::from_f32(value).to_bits());
        }
    }
}
