//! Tensors that lie in a slice with strides of their own, and the check that they lie inside of it.
//!
//! C is told where a buffer ends but not where it begins, so with negative strides this check is what
//! keeps a call inside the slice.
use crate::{Error, Result};

/// A tensor `[tokens, heads, head_dim]` somewhere in a slice, to be read.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a, T> {
    data: &'a [T],
    layout: Layout,
}

/// A tensor `[tokens, heads, head_dim]` somewhere in a slice, to be written.
#[derive(Debug)]
pub struct StridedMut<'a, T> {
    data: &'a mut [T],
    layout: Layout,
}

/// Where the first element lies, and how far it is from one token, head and direction to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub first: usize,
    pub strides: [i64; 3],
}

/// What C is told of a tensor: the first element, and the bytes from there to the end of the slice.
pub(crate) struct Place<P> {
    pub first: P,
    pub bytes: usize,
    pub strides: [i64; 3],
}

impl<'a, T> Strided<'a, T> {
    /// The tensor whose element `[0, 0, 0]` is `data[first]`. Strides are in elements, from one token,
    /// head and direction to the next, and may be negative. All 0 stands for contiguous.
    pub fn new(data: &'a [T], first: usize, strides: [i64; 3]) -> Self {
        Self { data, layout: Layout { first, strides } }
    }

    pub(crate) fn layout_mut(&mut self) -> &mut Layout {
        &mut self.layout
    }

    pub(crate) fn place(&self, name: &str, sizes: [u64; 3]) -> Result<Place<*const T>> {
        self.layout.check(name, sizes, self.data.len())?;
        Ok(Place {
            // From the pointer to the whole slice: strides may lead back from here.
            first: self.data.as_ptr().wrapping_add(self.layout.first),
            bytes: (self.data.len() - self.layout.first) * std::mem::size_of::<T>(),
            strides: self.layout.strides,
        })
    }
}

impl<'a, T> StridedMut<'a, T> {
    /// Like [`Strided::new`], to be written.
    pub fn new(data: &'a mut [T], first: usize, strides: [i64; 3]) -> Self {
        Self { data, layout: Layout { first, strides } }
    }

    pub(crate) fn layout_mut(&mut self) -> &mut Layout {
        &mut self.layout
    }

    pub(crate) fn place(&mut self, name: &str, sizes: [u64; 3]) -> Result<Place<*mut T>> {
        self.layout.check(name, sizes, self.data.len())?;
        Ok(Place {
            bytes: (self.data.len() - self.layout.first) * std::mem::size_of::<T>(),
            first: self.data.as_mut_ptr().wrapping_add(self.layout.first),
            strides: self.layout.strides,
        })
    }
}

/// A contiguous tensor that begins where the slice does.
impl<'a, T> From<&'a [T]> for Strided<'a, T> {
    fn from(data: &'a [T]) -> Self {
        Self::new(data, 0, [0; 3])
    }
}

/// A contiguous tensor that begins where the slice does.
impl<'a, T> From<&'a mut [T]> for StridedMut<'a, T> {
    fn from(data: &'a mut [T]) -> Self {
        Self::new(data, 0, [0; 3])
    }
}

impl Layout {
    /// For tensors whose rows must be contiguous, and for which C takes the first two strides only.
    pub(crate) fn require_rows(&mut self, name: &str) -> Result<()> {
        match self.strides {
            [0, 0, 0 | 1] => self.strides = [0; 3],
            [_, _, 1] => {}
            [_, _, stride] => {
                return Err(Error::invalid(format!(
                    "the stride of the last dimension of {name} is {stride}; it must be 1"
                )))
            }
        }
        Ok(())
    }

    /// Do all elements lie in a slice of `length`?
    fn check(&self, name: &str, sizes: [u64; 3], length: usize) -> Result<()> {
        if self.first > length {
            return Err(Error::invalid(format!(
                "{name} begins at element {} but its slice has {length}",
                self.first
            )));
        }
        let Some((lowest, highest)) = self.reach(sizes) else {
            return Err(Error::invalid(format!(
                "the shape and strides of {name} go beyond the address space"
            )));
        };
        if sizes.contains(&0) {
            return Ok(());
        }
        if lowest < 0 || highest >= length as i128 {
            return Err(Error::invalid(format!(
                "{name} reaches from element {lowest} to {highest} but its slice has {length}"
            )));
        }
        Ok(())
    }

    /// The lowest and the highest element, or `None` where the numbers are beyond all reason.
    fn reach(&self, sizes: [u64; 3]) -> Option<(i128, i128)> {
        let [_, heads, dims] = sizes.map(i128::from);
        let strides = match self.strides {
            [0, 0, 0] => [heads.checked_mul(dims)?, dims, 1],
            strides => strides.map(i128::from),
        };
        let (mut lowest, mut highest) = (self.first as i128, self.first as i128);
        for (size, stride) in sizes.into_iter().zip(strides) {
            let way = i128::from(size.saturating_sub(1)).checked_mul(stride)?;
            let end = if way < 0 { &mut lowest } else { &mut highest };
            *end = end.checked_add(way)?;
        }
        Some((lowest, highest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(length: usize, first: usize, strides: [i64; 3], sizes: [u64; 3]) -> bool {
        let data = vec![0u8; length];
        Strided::new(&data, first, strides).place("x", sizes).is_ok()
    }

    #[test]
    fn contiguous_tensors() {
        assert!(ok(24, 0, [0; 3], [2, 3, 4]));
        assert!(!ok(23, 0, [0; 3], [2, 3, 4]));
        assert!(ok(25, 1, [0; 3], [2, 3, 4]));
        assert!(!ok(24, 1, [0; 3], [2, 3, 4]));
        assert!(ok(0, 0, [0; 3], [0, 3, 4]));
        assert!(!ok(0, 1, [0; 3], [0, 3, 4]));
    }

    #[test]
    fn strides_forth_and_back() {
        // Heads outside, tokens inside.
        assert!(ok(24, 0, [4, 8, 1], [2, 3, 4]));
        assert!(!ok(23, 0, [4, 8, 1], [2, 3, 4]));
        // Tokens backwards: element [0,0,0] is at the last token.
        assert!(ok(24, 12, [-12, 4, 1], [2, 3, 4]));
        assert!(!ok(24, 11, [-12, 4, 1], [2, 3, 4]));
        assert!(!ok(24, 13, [-12, 4, 1], [2, 3, 4]));
        // All backwards.
        assert!(ok(24, 23, [-12, -4, -1], [2, 3, 4]));
        assert!(!ok(24, 22, [-12, -4, -1], [2, 3, 4]));
        // No tokens: strides lead nowhere.
        assert!(ok(4, 4, [-12, -4, -1], [0, 3, 4]));
    }

    #[test]
    fn numbers_beyond_reason() {
        for stride in [i64::MIN, i64::MAX] {
            assert!(!ok(8, 0, [stride; 3], [u64::MAX; 3]));
            assert!(!ok(8, 0, [stride, 1, 1], [2, 1, 1]));
        }
        assert!(!ok(8, 0, [0; 3], [u64::MAX, u64::MAX, u64::MAX]));
        assert!(!ok(8, usize::MAX, [1, 1, 1], [1, 1, 1]));
    }

    #[test]
    fn every_reach_agrees_with_a_walk() {
        for first in 0..4usize {
            for a in -3i64..=3 {
                for b in -2i64..=2 {
                    let (sizes, strides) = ([3u64, 2, 2], [a, b, 1]);
                    let inside = (0..3).all(|i| {
                        (0..2).all(|j| {
                            (0..2).all(|k| (0..8).contains(&(first as i64 + i * a + j * b + k)))
                        })
                    });
                    assert_eq!(ok(8, first, strides, sizes), inside, "{first} {a} {b}");
                }
            }
        }
    }

    #[test]
    fn places() {
        let mut data = [0u16; 24];
        let start = data.as_ptr();
        let place = Strided::new(&data, 12, [-12, 4, 1]).place("x", [2, 3, 4]).unwrap();
        assert_eq!((place.first, place.bytes), (start.wrapping_add(12), 24));
        let place = StridedMut::new(&mut data, 4, [8, 4, 1]).place("x", [2, 3, 4]).map(|p| p.bytes);
        assert_eq!(place.unwrap(), 40);
    }

    #[test]
    fn rows() {
        let mut layout = Layout { first: 0, strides: [0, 0, 1] };
        layout.require_rows("q").unwrap();
        assert_eq!(layout.strides, [0; 3]); // C takes two zeroes for contiguous
        for strides in [[8, 4, 2], [8, 4, 0], [8, 4, -1], [0, 0, 2]] {
            let message = Layout { first: 0, strides }.require_rows("q").unwrap_err();
            assert!(message.message().contains("last dimension of q"));
        }
    }
}
