//! Numbers to choose by.

/// Numbers that are as good as random, and the same every time. Source: Knuth, MMIX.
pub struct Numbers(pub u64);

impl Numbers {
    /// The next, less than the bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// One of several, of which there is one at least.
    pub fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        let place = self.below(choices.len() as u64);
        choices[usize::try_from(place).unwrap()].clone()
    }
}
