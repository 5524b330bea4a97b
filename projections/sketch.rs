//! The sketch: how many distinct visitors there are among those that it was shown, in at most 3 KiB.
//!
//! HyperLogLog (Flajolet, Fusy, Gandouet, Meunier 2007) with 2^12 registers. Up to [`MAX_COUPONS`] distinct visitors
//! are kept as *coupons* of 32 bits each, as Apache DataSketches does, and counted almost exactly.
//!
//! Invariant: a sketch and its bytes are a function of the set of visitors and of nothing else, so that union is
//! associative, commutative and idempotent, to the bit. That is why rows hold coupons or registers and not the
//! library's own image, whose HIP accumulator remembers in which order it was filled. Estimates and their bounds are
//! the library's, made of an image of what is here, by its estimator that knows no order.

use datasketches::common::NumStdDev;
use datasketches::hll::HllSketch;

use crate::codec::{Damaged, Reader, put_varint};

/// Binary logarithm of the number of registers.
const LG_REGISTERS: u8 = 12;
const REGISTERS: usize = 1 << LG_REGISTERS;
/// Distinct coupons up to which they are kept: what DataSketches keeps at this size (three quarters of 2^9).
pub const MAX_COUPONS: usize = 384;
/// Standard error of an estimate, relative to it, past [`MAX_COUPONS`] visitors: 1.0390 / sqrt(2^12), the
/// asymptote of the estimator that knows no order (sqrt(3 ln 2 - 1) for HyperLogLog).
pub const RELATIVE_STANDARD_ERROR: f64 = 0.016_23;

/// Bits of a coupon that are the visitor's slot, of which a register takes the lowest twelve.
const SLOT_BITS: u32 = 26;
/// Bits of a register.
const REGISTER_BITS: usize = 6;
/// Bytes of all registers.
const DENSE_BYTES: usize = REGISTERS * REGISTER_BITS / 8;

/// First byte of a row that lists coupons.
const COUPONS: u8 = 0;
/// First byte of a row of registers.
const DENSE: u8 = 1;

/// A visitor's mark on a sketch: the slot in the lower 26 bits, and above it the rank, which is one more than the
/// leading zeros of what is left of the hash (1 to 39).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Coupon(u32);

impl Coupon {
    /// The coupon of a visitor ([`adtally_streams::visitor`]).
    pub fn of(visitor: u64) -> Self {
        let slot = visitor as u32 & ((1 << SLOT_BITS) - 1);
        let rank = visitor.leading_zeros().min(u64::BITS - SLOT_BITS) + 1;
        Self(rank << SLOT_BITS | slot)
    }

    /// Its bits: all that a sketch looks at of a visitor, and too few to make a name of them again.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// A visitor whose coupon has these bits; nobody's own hash, and as good for a sketch.
    pub fn visitor_of_bits(bits: u32) -> u64 {
        let slot = u64::from(bits & ((1 << SLOT_BITS) - 1));
        let zeros = (bits >> SLOT_BITS).saturating_sub(1);
        match zeros < u64::BITS - SLOT_BITS {
            true => 1 << (u64::BITS - 1 - zeros) | slot,
            false => slot,
        }
    }

    fn register(self) -> usize {
        self.0 as usize & (REGISTERS - 1)
    }

    fn rank(self) -> u8 {
        (self.0 >> SLOT_BITS) as u8
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Marks {
    /// Ascending, at most [`MAX_COUPONS`].
    Coupons(Vec<Coupon>),
    /// The highest rank of each register.
    Registers(Box<[u8; REGISTERS]>),
}

/// A set of visitors, of which only the size can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sketch(Marks);

impl Default for Sketch {
    fn default() -> Self {
        Self(Marks::Coupons(Vec::new()))
    }
}

/// A size, and the bounds between which it lies in 95 of a hundred cases (two standard deviations).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// The likeliest.
    pub estimate: u64,
    /// Not fewer.
    pub lower: u64,
    /// Not more.
    pub upper: u64,
}

impl Sketch {
    /// The set of those visitors' coupons, which ascend and are distinct.
    fn of(coupons: Vec<Coupon>) -> Self {
        if coupons.len() <= MAX_COUPONS {
            return Self(Marks::Coupons(coupons));
        }
        let mut registers = Box::new([0; REGISTERS]);
        coupons.into_iter().for_each(|c| raise(&mut registers, c));
        Self(Marks::Registers(registers))
    }

    /// Whether it was shown nobody.
    pub fn is_empty(&self) -> bool {
        matches!(&self.0, Marks::Coupons(coupons) if coupons.is_empty())
    }

    /// Adds a visitor; says whether that changed anything.
    pub fn insert(&mut self, coupon: Coupon) -> bool {
        match &mut self.0 {
            Marks::Registers(registers) => {
                let new = registers[coupon.register()] < coupon.rank();
                raise(registers, coupon);
                new
            }
            Marks::Coupons(coupons) => {
                // Stored ones come in their order.
                let place = match coupons.last() {
                    Some(last) if *last < coupon => coupons.len(),
                    _ => match coupons.binary_search(&coupon) {
                        Ok(_) => return false,
                        Err(place) => place,
                    },
                };
                coupons.insert(place, coupon);
                if coupons.len() > MAX_COUPONS {
                    *self = Self::of(std::mem::take(coupons));
                }
                true
            }
        }
    }

    /// Adds everybody that a stored sketch was shown.
    ///
    /// # Errors
    /// [`Damaged`] when the bytes are no stored sketch.
    pub fn merge(&mut self, bytes: &[u8]) -> Result<(), Damaged> {
        let mut r = Reader::new(bytes, "sketch");
        match r.u8()? {
            COUPONS => {
                let mut last = None;
                while !r.rest().is_empty() {
                    let step = r.varint32()?;
                    let coupon = match last {
                        Some(_) if step == 0 => return Err(r.damaged()),
                        Some(last) => step.checked_add(last).ok_or(r.damaged())?,
                        None => step,
                    };
                    last = Some(coupon);
                    if !(1..=u64::BITS - SLOT_BITS + 1).contains(&(coupon >> SLOT_BITS)) {
                        return Err(r.damaged());
                    }
                    self.insert(Coupon(coupon));
                }
                Ok(())
            }
            DENSE => {
                let packed = r.take(DENSE_BYTES)?;
                r.end()?;
                self.raise_all(packed);
                Ok(())
            }
            _ => Err(r.damaged()),
        }
    }

    /// Takes the higher rank of each register. A stored row of registers was shown more than [`MAX_COUPONS`].
    fn raise_all(&mut self, packed: &[u8]) {
        let mut registers = match std::mem::replace(&mut self.0, Marks::Coupons(Vec::new())) {
            Marks::Registers(registers) => registers,
            Marks::Coupons(coupons) => {
                let mut registers = Box::new([0; REGISTERS]);
                coupons.into_iter().for_each(|c| raise(&mut registers, c));
                registers
            }
        };
        // Three bytes hold four registers, the first one lowest.
        let fours = registers.as_chunks_mut::<4>().0;
        for (four, [a, b, c]) in fours.iter_mut().zip(packed.as_chunks::<3>().0) {
            let bits = u32::from_le_bytes([*a, *b, *c, 0]);
            for (i, register) in four.iter_mut().enumerate() {
                *register = (*register).max((bits >> (i * REGISTER_BITS)) as u8 & 0x3f);
            }
        }
        self.0 = Marks::Registers(registers);
    }

    /// Appends its stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match &self.0 {
            Marks::Coupons(coupons) => encode_coupons(coupons, out),
            Marks::Registers(registers) => {
                out.push(DENSE);
                for four in registers.as_chunks::<4>().0 {
                    let bits = four.iter().rev().fold(0, |bits, register| {
                        bits << REGISTER_BITS | u32::from(*register)
                    });
                    out.extend_from_slice(&bits.to_le_bytes()[..3]);
                }
            }
        }
    }

    /// How many visitors there are.
    pub fn estimate(&self) -> Estimate {
        let sketch = HllSketch::deserialize(&self.image())
            .expect("the image is of the library's own layout, as a test says for every size");
        let whole = |n: f64| n.round().max(0.0) as u64;
        let (lower, upper) = (
            sketch.lower_bound(NumStdDev::Two),
            sketch.upper_bound(NumStdDev::Two),
        );
        // So few lie within a tenth of a visitor of their bounds, which are theirs.
        let is_few = matches!(self.0, Marks::Coupons(_));
        let (lower, upper) = match is_few {
            true => (lower, upper),
            false => (lower.floor(), upper.ceil()),
        };
        Estimate {
            estimate: whole(sketch.composite_estimate()),
            lower: whole(lower),
            upper: whole(upper),
        }
    }

    /// The sketch as DataSketches stores one: a set of coupons, or registers of a byte each that were filled out of
    /// order (<https://github.com/apache/datasketches-java>, `PreambleUtil` of HLL).
    fn image(&self) -> Vec<u8> {
        const SERIAL_VERSION: u8 = 1;
        const FAMILY_HLL: u8 = 7;
        const COMPACT: u8 = 8;
        const OUT_OF_ORDER: u8 = 16;
        const MODE_SET_HLL8: u8 = 1 | 2 << 2;
        const MODE_HLL_HLL8: u8 = 2 | 2 << 2;
        match &self.0 {
            Marks::Coupons(coupons) => {
                let lg_slots = LG_REGISTERS - 3;
                let mut image = vec![3, SERIAL_VERSION, FAMILY_HLL, LG_REGISTERS, lg_slots];
                image.extend([COMPACT, 0, MODE_SET_HLL8]);
                image.extend((coupons.len() as u32).to_le_bytes());
                coupons
                    .iter()
                    .for_each(|coupon| image.extend(coupon.0.to_le_bytes()));
                image
            }
            Marks::Registers(registers) => {
                // The library sums 2^-rank of low and of high ranks apart.
                let sum = |high: bool| {
                    let of = registers.iter().filter(|rank| (**rank >= 32) == high);
                    of.map(|rank| (-f64::from(*rank)).exp2()).sum::<f64>()
                };
                let zeros = registers.iter().filter(|rank| **rank == 0).count() as u32;
                let mut image = vec![10, SERIAL_VERSION, FAMILY_HLL, LG_REGISTERS, 0];
                image.extend([OUT_OF_ORDER, 0, MODE_HLL_HLL8]);
                for number in [0.0, sum(false), sum(true)] {
                    image.extend(number.to_le_bytes());
                }
                image.extend(zeros.to_le_bytes());
                image.extend([0; 4]);
                image.extend_from_slice(&registers[..]);
                image
            }
        }
    }
}

fn raise(registers: &mut [u8; REGISTERS], coupon: Coupon) {
    let register = &mut registers[coupon.register()];
    *register = (*register).max(coupon.rank());
}

fn encode_coupons(coupons: &[Coupon], out: &mut Vec<u8>) {
    out.push(COUPONS);
    let mut last = 0;
    for Coupon(coupon) in coupons {
        put_varint(out, u64::from(coupon - last));
        last = *coupon;
    }
}

/// Appends the stored form of the sketch that was shown those; sorts them and removes what is there twice.
pub(crate) fn encode_set(coupons: &mut Vec<Coupon>, out: &mut Vec<u8>) {
    coupons.sort_unstable();
    coupons.dedup();
    if coupons.len() <= MAX_COUPONS {
        encode_coupons(coupons, out);
    } else {
        Sketch::of(std::mem::take(coupons)).encode(out);
    }
}

/// The merge of RocksDB's operands: the union of all of them; none when one is damaged, which RocksDB then reports as
/// corruption instead of counting somebody else.
pub fn merge_sketches<'a>(
    existing: Option<&'a [u8]>,
    operands: impl Iterator<Item = &'a [u8]>,
) -> Option<Vec<u8>> {
    let mut union = Sketch::default();
    for bytes in existing.into_iter().chain(operands) {
        union.merge(bytes).ok()?;
    }
    let mut out = Vec::with_capacity(64);
    union.encode(&mut out);
    Some(out)
}

#[cfg(test)]
#[path = "sketch_tests.rs"]
mod tests;
