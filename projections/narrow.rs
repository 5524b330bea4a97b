//! Numbers of a column as they are stored: as many bytes each as the largest needs, least first.

/// A stored number of a fixed width.
pub trait Narrow: Copy {
    /// The number.
    fn wide(self) -> u64;
}

impl Narrow for u8 {
    #[inline]
    fn wide(self) -> u64 {
        u64::from(self)
    }
}

impl Narrow for [u8; 2] {
    #[inline]
    fn wide(self) -> u64 {
        u64::from(u16::from_le_bytes(self))
    }
}

impl Narrow for [u8; 4] {
    #[inline]
    fn wide(self) -> u64 {
        u64::from(u32::from_le_bytes(self))
    }
}

impl Narrow for [u8; 8] {
    #[inline]
    fn wide(self) -> u64 {
        u64::from_le_bytes(self)
    }
}

/// The numbers of a column.
#[derive(Clone, Copy, Debug)]
pub enum Numbers<'b> {
    /// All of them zero, which takes no bytes.
    Zero,
    /// Of one byte each.
    One(&'b [u8]),
    /// Of two.
    Two(&'b [[u8; 2]]),
    /// Of four.
    Four(&'b [[u8; 4]]),
    /// Of eight.
    Eight(&'b [[u8; 8]]),
}

impl<'b> Numbers<'b> {
    /// Numbers of that width, which is 0, 1, 2, 4 or 8; bytes that are no whole number are left out.
    pub fn of(width: usize, bytes: &'b [u8]) -> Self {
        match width {
            0 => Numbers::Zero,
            1 => Numbers::One(bytes),
            2 => Numbers::Two(bytes.as_chunks().0),
            4 => Numbers::Four(bytes.as_chunks().0),
            _ => Numbers::Eight(bytes.as_chunks().0),
        }
    }

    /// The number at a place, which there is one at.
    pub fn at(&self, place: usize) -> u64 {
        match self {
            Numbers::Zero => 0,
            Numbers::One(numbers) => numbers[place].wide(),
            Numbers::Two(numbers) => numbers[place].wide(),
            Numbers::Four(numbers) => numbers[place].wide(),
            Numbers::Eight(numbers) => numbers[place].wide(),
        }
    }

    /// The largest that any number of the width can be.
    pub fn most(&self) -> u64 {
        match self {
            Numbers::Zero => 0,
            Numbers::One(_) => u64::from(u8::MAX),
            Numbers::Two(_) => u64::from(u16::MAX),
            Numbers::Four(_) => u64::from(u32::MAX),
            Numbers::Eight(_) => u64::MAX,
        }
    }

    /// The largest of them; 0 where there are none.
    pub fn largest(&self) -> u64 {
        fn largest<T: Narrow>(numbers: &[T]) -> u64 {
            numbers.iter().map(|n| n.wide()).max().unwrap_or(0)
        }
        match self {
            Numbers::Zero => 0,
            // In their own width, by sixteen at once.
            Numbers::One(numbers) => numbers.iter().copied().max().map_or(0, u64::from),
            Numbers::Two(numbers) => {
                let numbers = numbers.iter().map(|n| u16::from_le_bytes(*n));
                numbers.max().map_or(0, u64::from)
            }
            Numbers::Four(numbers) => largest(numbers),
            Numbers::Eight(numbers) => largest(numbers),
        }
    }

    /// Their bytes.
    pub fn bytes(&self) -> &'b [u8] {
        match self {
            Numbers::Zero => &[],
            Numbers::One(numbers) => numbers,
            Numbers::Two(numbers) => numbers.as_flattened(),
            Numbers::Four(numbers) => numbers.as_flattened(),
            Numbers::Eight(numbers) => numbers.as_flattened(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_width_are_read() {
        let bytes: Vec<u8> = (1..=16).collect();
        for (width, second, largest) in [
            (0, 0, 0),
            (1, 2, 16),
            (2, 0x0403, 0x100f),
            (4, 0x0807_0605, 0x100f_0e0d),
            (8, 0x100f_0e0d_0c0b_0a09, 0x100f_0e0d_0c0b_0a09),
        ] {
            let numbers = Numbers::of(width, &bytes);
            assert_eq!(numbers.at(1), second, "{width}");
            assert_eq!(numbers.largest(), largest, "{width}");
            assert!(numbers.most() >= largest);
            let want: &[u8] = if width == 0 { &[] } else { &bytes };
            assert_eq!(numbers.bytes(), want);
        }
        assert_eq!(Numbers::of(2, &bytes[..3]).bytes(), &bytes[..2]);
    }
}
