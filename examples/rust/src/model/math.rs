//! The arithmetic: products with packed matrices, softmax, gating, norms.
//!
//! Products are summed in the order of the C++ demo, one output per lane and one input after the other, fused where the
//! processor can: their bits are the demo's. The rest agrees to the last place or so, which greedy decoding of a
//! trained model does not see.

const PANEL: usize = 16; // outputs that lie side by side
const SLICE: usize = 512; // inputs that are summed before the sum goes to memory

/// A matrix in panels of 16 outputs: element `(o, i)` is at `data[o / 16 * stride + i * 16 + o % 16]`.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    data: &'a [f32],
    stride: usize,
    outputs: usize,
    inputs: usize,
}

/// A matrix that owns its panels. What the last one has beyond `outputs` is zero.
#[derive(Debug)]
pub struct Linear {
    data: Vec<f32>,
    outputs: usize,
    inputs: usize,
}

impl Linear {
    /// Packs a matrix `[outputs, inputs]`.
    pub fn pack(matrix: &[f32], outputs: usize, inputs: usize) -> Self {
        Self::from_fn(outputs, inputs, |o, i| matrix[o * inputs + i])
    }

    /// Packs the matrix with these elements.
    pub fn from_fn(outputs: usize, inputs: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        let mut data = vec![0.0; outputs.div_ceil(PANEL) * PANEL * inputs];
        for o in 0..outputs {
            for i in 0..inputs {
                data[(o / PANEL * inputs + i) * PANEL + o % PANEL] = at(o, i);
            }
        }
        Self { data, outputs, inputs }
    }

    pub fn view(&self) -> View<'_> {
        self.part(self.outputs, self.inputs)
    }

    /// The first outputs and inputs.
    pub fn part(&self, outputs: usize, inputs: usize) -> View<'_> {
        assert!(outputs <= self.outputs && inputs <= self.inputs);
        View { data: &self.data, stride: self.inputs * PANEL, outputs, inputs }
    }
}

/// `y[r, o] = sum over i of x[r, i] w[o, i]`, or that added to `y`. Rows of `x` are `x_stride` apart, rows of `y` as many as
/// `w` has outputs.
pub fn multiply(y: &mut [f32], x: &[f32], x_stride: usize, w: View<'_>, add: bool) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has both.
        return unsafe { multiply_avx2(y, x, x_stride, w, add) };
    }
    multiply_any::<{ cfg!(target_arch = "aarch64") }>(y, x, x_stride, w, add);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_avx2(y: &mut [f32], x: &[f32], x_stride: usize, w: View<'_>, add: bool) {
    multiply_any::<true>(y, x, x_stride, w, add);
}

#[inline(always)]
fn multiply_any<const FUSED: bool>(
    y: &mut [f32],
    x: &[f32],
    x_stride: usize,
    w: View<'_>,
    add: bool,
) {
    let rows = y.len() / w.outputs;
    for begin in (0..w.inputs).step_by(SLICE) {
        let (end, onto) = (w.inputs.min(begin + SLICE), add || begin > 0);
        for first in (0..w.outputs).step_by(PANEL) {
            let panel = &w.data[first / PANEL * w.stride..][begin * PANEL..end * PANEL];
            let width = PANEL.min(w.outputs - first);
            let mut r = 0;
            while r < rows {
                let x = |row: usize| &x[(r + row) * x_stride..][begin..end];
                let y = &mut y[r * w.outputs + first..];
                if r + 4 <= rows {
                    tile::<4, FUSED>([x(0), x(1), x(2), x(3)], panel, y, w.outputs, width, onto);
                    r += 4;
                } else {
                    tile::<1, FUSED>([x(0)], panel, y, w.outputs, width, onto);
                    r += 1;
                }
            }
        }
    }
}

/// Some rows times one panel.
#[inline(always)]
fn tile<const R: usize, const FUSED: bool>(
    x: [&[f32]; R],
    panel: &[f32],
    y: &mut [f32],
    y_stride: usize,
    width: usize,
    onto: bool,
) {
    let mut sums = [[0f32; PANEL]; R];
    let inputs = panel.len() / PANEL;
    let x = x.map(|row| &row[..inputs]);
    for i in 0..inputs {
        let weights: &[f32; PANEL] = panel[i * PANEL..][..PANEL].try_into().expect("16 of them");
        for r in 0..R {
            let xi = x[r][i];
            sums[r] = std::array::from_fn(|o| {
                if FUSED {
                    xi.mul_add(weights[o], sums[r][o])
                } else {
                    xi * weights[o] + sums[r][o]
                }
            });
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let y = &mut y[r * y_stride..][..width];
        if let Ok(y) = <&mut [f32; PANEL]>::try_from(&mut *y) {
            *y = std::array::from_fn(|o| if onto { y[o] + sums[o] } else { sums[o] });
        } else {
            for (to, &sum) in y.iter_mut().zip(sums) {
                *to = if onto { *to + sum } else { sum };
            }
        }
    }
}

/// Every row of `x`, as long as `weight`, divided by its root mean square and times `weight`.
pub fn norm(out: &mut [f32], x: &[f32], weight: &[f32], epsilon: f32) {
    let n = weight.len();
    for (out, row) in out.chunks_exact_mut(n).zip(x.chunks_exact(n)) {
        let mut squares = [0f32; PANEL];
        for part in row.chunks(PANEL) {
            for (sum, value) in squares.iter_mut().zip(part) {
                *sum += value * value;
            }
        }
        let factor = 1.0 / (squares.iter().sum::<f32>() / n as f32 + epsilon).sqrt();
        for ((to, value), weight) in out.iter_mut().zip(row).zip(weight) {
            *to = value * factor * weight;
        }
    }
}

/// `gate = silu(gate) * up`.
pub fn gate(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + (-*g).exp()) * u;
    }
}

/// The first `count` scores become weights, up to a common factor, the others 0. Returns the weights' sum.
pub fn softmax(scores: &mut [f32], count: usize, scale: f32) -> f32 {
    let (seen, hidden) = scores.split_at_mut(count);
    let most = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max) * scale;
    let mut sum = 0.0;
    for score in seen {
        *score = (*score * scale - most).exp();
        sum += *score;
    }
    hidden.fill(0.0);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn products_of_every_size() {
        for (rows, outputs, inputs) in
            [(1, 1, 1), (1, 17, 5), (3, 16, 512), (4, 40, 513), (9, 5, 1100), (7, 33, 64)]
        {
            let (x, w) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2));
            let packed = Linear::pack(&w, outputs, inputs);
            let mut y = vec![1.0; rows * outputs];
            multiply(&mut y, &x, inputs, packed.view(), true);
            let mut same = vec![f32::NAN; rows * outputs];
            multiply(&mut same, &x, inputs, packed.view(), false);
            for r in 0..rows {
                for o in 0..outputs {
                    let products = (0..inputs)
                        .map(|i| f64::from(x[r * inputs + i]) * f64::from(w[o * inputs + i]));
                    let (exact, size) =
                        products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
                    // Every addition rounds once, by at most 2^-24 of what has come together.
                    let bound = (inputs + 2) as f64 * (size + 1.0) * 2f64.powi(-24);
                    let (added, alone) = (y[r * outputs + o], same[r * outputs + o]);
                    assert!((f64::from(alone) - exact).abs() <= bound);
                    assert!((f64::from(added) - exact - 1.0).abs() <= bound);
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_others() {
        let (x, w) = (numbers(6 * 600, 3), Linear::pack(&numbers(20 * 600, 4), 20, 600));
        let mut all = vec![0.0; 6 * 20];
        multiply(&mut all, &x, 600, w.view(), false);
        for r in 0..6 {
            let mut one = vec![0.0; 20];
            multiply(&mut one, &x[r * 600..], 600, w.view(), false);
            assert_eq!(one, all[r * 20..][..20]);
        }
    }

    #[test]
    fn parts_of_a_matrix() {
        let (x, w) = (numbers(40, 5), numbers(50 * 40, 6));
        let mut part = vec![0.0; 19];
        multiply(&mut part, &x, 40, Linear::pack(&w, 50, 40).part(19, 7), false);
        let cut = Linear::from_fn(19, 7, |o, i| w[o * 40 + i]);
        let mut want = vec![0.0; 19];
        multiply(&mut want, &x, 40, cut.view(), false);
        assert_eq!(part, want);
    }

    #[test]
    fn weights_of_scores() {
        let mut scores = [2000.0, 1999.0, -3000.0, 7000.0];
        let sum = softmax(&mut scores, 3, 0.5);
        assert_eq!(scores, [1.0, (-0.5f32).exp(), 0.0, 0.0]);
        assert_eq!(sum, 1.0 + (-0.5f32).exp());
    }

    #[test]
    fn norms_and_gates() {
        let mut out = [0.0; 4];
        norm(&mut out, &[3.0, 3.0, 0.0, 0.0], &[1.0, 2.0], 0.0);
        assert_eq!(out[..2], [1.0, 2.0]);
        assert!(out[2].is_nan()); // no epsilon, no norm
        let mut gates = [0.0, 200.0, -200.0];
        gate(&mut gates, &[5.0, 2.0, 1.0]);
        assert_eq!(gates, [0.0, 400.0, 0.0]);
    }
}
