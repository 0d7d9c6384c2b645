//! The loop over columns that every kernel has, over what differs between instruction sets and element types.

use super::Element;

/// How an instruction set multiplies stored weights of one type, [`WIDTH`](Self::WIDTH) columns at a time.
///
/// # Safety
/// All functions may be called only where the processor has the implementation's instruction set, inside code
/// that is compiled for it. Those that take a place read `WIDTH` elements from it, or the first `count`.
pub(super) trait Lanes: Sync {
    /// A prepared activation.
    type Input: Element;
    /// Size of a stored weight.
    const BYTES: usize;
    /// Columns per step.
    const WIDTH: usize;
    /// `WIDTH` weights or activations.
    type Values: Copy;
    /// Partial sums.
    type Sums: Copy;

    unsafe fn zero() -> Self::Sums;
    unsafe fn weights(place: *const u8) -> Self::Values;
    /// The first `count`, fewer than `WIDTH`; zeros after them. Nothing else is read.
    unsafe fn some_weights(place: *const u8, count: usize) -> Self::Values;
    unsafe fn inputs(place: *const Self::Input) -> Self::Values;
    unsafe fn add<const FUSED: bool>(
        sums: Self::Sums,
        weights: Self::Values,
        inputs: Self::Values,
    ) -> Self::Sums;
    unsafe fn total(sums: Self::Sums) -> f32;
}

/// `[r][t] = Σ rows[r] * tokens[t]`, in an order that depends on the number of columns only.
///
/// All `rows` are of the same length. `x` is packed in groups of `T` tokens and has as many steps as the rows, the last
/// filled up with zeros.
///
/// # Safety
/// The processor must have the instruction set of `L`, and the caller be compiled for it.
#[inline(always)]
pub(super) unsafe fn tile<L: Lanes, const FUSED: bool, const R: usize, const T: usize>(
    rows: [&[u8]; R],
    x: &[L::Input],
) -> [[f32; T]; R] {
    let cols = rows.first().map_or(0, |row| row.len() / L::BYTES);
    assert!(x.len() == cols.next_multiple_of(L::WIDTH) * T, "the steps of rows and tokens");
    debug_assert!(rows.iter().all(|row| row.len() == L::BYTES * cols));
    // SAFETY: the rows have `cols` weights, and the steps of `x` were just checked.
    unsafe { dots::<L, FUSED, R, T>(rows.map(<[u8]>::as_ptr), x.as_ptr(), cols) }
}

/// # Safety
/// As [`tile`]; every row must have `cols` weights, and `x` `T` times [`Lanes::WIDTH`] elements for every step, begun or
/// whole.
#[inline(always)]
unsafe fn dots<L: Lanes, const FUSED: bool, const R: usize, const T: usize>(
    rows: [*const u8; R],
    x: *const L::Input,
    cols: usize,
) -> [[f32; T]; R] {
    // SAFETY: the caller has seen the processor's features.
    let mut sums = [[unsafe { L::zero() }; T]; R];
    let even = cols - cols % L::WIDTH;
    let mut col = 0;
    while col < even {
        // SAFETY: the step at `col` has `T` vectors.
        let x = unsafe { step::<L, T>(x, col) };
        for r in 0..R {
            // SAFETY: inside the row.
            let place = unsafe { rows[r].add(col * L::BYTES) };
            // SAFETY: a whole vector at `col` is inside.
            let weights = unsafe { L::weights(place) };
            // SAFETY: the caller has seen the processor's features.
            unsafe { add::<L, FUSED, T>(weights, &x, &mut sums[r]) };
        }
        col += L::WIDTH;
    }
    if even < cols {
        // SAFETY: the step at `even` has `T` vectors, filled up with zeros.
        let x = unsafe { step::<L, T>(x, even) };
        for r in 0..R {
            // SAFETY: inside the row.
            let place = unsafe { rows[r].add(even * L::BYTES) };
            // SAFETY: so many weights are left.
            let weights = unsafe { L::some_weights(place, cols - even) };
            // SAFETY: the caller has seen the processor's features.
            unsafe { add::<L, FUSED, T>(weights, &x, &mut sums[r]) };
        }
    }
    let mut totals = [[0.0; T]; R];
    for r in 0..R {
        for t in 0..T {
            // SAFETY: the caller has seen the processor's features.
            totals[r][t] = unsafe { L::total(sums[r][t]) };
        }
    }
    totals
}

/// The activations of the step at `col`.
///
/// # Safety
/// As [`dots`]; the step must be inside `x`.
#[inline(always)]
unsafe fn step<L: Lanes, const T: usize>(x: *const L::Input, col: usize) -> [L::Values; T] {
    std::array::from_fn(|t| {
        // SAFETY: inside, as the caller says.
        let place = unsafe { x.add(col * T + t * L::WIDTH) };
        // SAFETY: a whole vector is there.
        unsafe { L::inputs(place) }
    })
}

/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn add<L: Lanes, const FUSED: bool, const T: usize>(
    weights: L::Values,
    x: &[L::Values; T],
    sums: &mut [L::Sums; T],
) {
    for (sum, x) in sums.iter_mut().zip(x) {
        // SAFETY: the caller has seen the processor's features.
        *sum = unsafe { L::add::<FUSED>(*sum, weights, *x) };
    }
}
