//! Numbers that look random and are the same in every run with the same seed; not for secrets.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct SplitMix(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl SplitMix {
    /// The sequence of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn draw(&mut self) -> u64 {
        let drawn = Self::mix(self.0);
        self.0 = self.0.wrapping_add(STEP);
        drawn
    }

    /// The first number of the sequence of `seed`: every bit of it moves half of the result.
    #[inline]
    #[must_use]
    pub const fn mix(seed: u64) -> u64 {
        let z = seed.wrapping_add(STEP);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::SplitMix;

    /// The first numbers that the authors' program prints for this seed.
    #[test]
    fn the_sequence_is_the_published_one() {
        let mut numbers = SplitMix::new(1_234_567);
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
        ];
        assert_eq!([(); 4].map(|()| numbers.draw()), expected);
        assert_eq!(SplitMix::mix(1_234_567), expected[0]);
    }
}
