//! Values as they lie in memory, read by volatile loads.

#![expect(
    unsafe_code,
    reason = "values are read from and written to memory by their layout"
)]

use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use insula_contract::encoding::serde::de::{Error as _, SeqAccess, Visitor};
use insula_contract::encoding::serde::ser::SerializeTuple;
use insula_contract::encoding::serde::{Deserializer, Serializer};
use insula_contract::schema::TypeSchema;

use crate::contract::Message;

/// A type of a fixed layout, of which any bytes are a value.
///
/// Numbers and arrays of them are, and structs of such: `#[derive(Message)] #[message(fixed)]` for
/// a `#[repr(C)]` struct implements it and checks what it asks for when the program is compiled.
///
/// # Safety
///
/// * Any `size_of::<Self>()` bytes are a valid value: no `bool`, no `char`, no enum, no reference.
/// * It has no padding, so that all of its bytes have a value.
/// * Its layout follows from `structure` alone, so that two programs agree on it: `repr(C)`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no fixed layout",
    note = "a fixed message consists of `u8` to `u64`, `i8` to `i64`, `f32`, `f64`, arrays of them, and \
            structs with `#[derive(Clone, Copy, Message)] #[message(fixed)] #[repr(C)]`"
)]
pub unsafe trait Fixed: Copy + fmt::Debug + 'static {
    /// What it consists of.
    fn structure() -> TypeSchema;
}

macro_rules! numbers {
    ($($number:ty => $schema:ident;)*) => {$(
        // SAFETY: any bytes are a number, and it has no padding.
        unsafe impl Fixed for $number {
            fn structure() -> TypeSchema {
                TypeSchema::$schema
            }
        }
    )*};
}

numbers! {
    u8 => U8;
    u16 => U16;
    u32 => U32;
    u64 => U64;
    i8 => I8;
    i16 => I16;
    i32 => I32;
    i64 => I64;
    f32 => F32;
    f64 => F64;
}

// SAFETY: the items lie one after the other without padding, and are fixed themselves.
unsafe impl<T: Fixed, const N: usize> Fixed for [T; N] {
    fn structure() -> TypeSchema {
        TypeSchema::Array {
            length: N as u64,
            item: Box::new(T::structure()),
        }
    }
}

/// From this length on a copy by one instruction is faster than one by volatile words: at 64 bytes
/// 11 ns against 6, at 256 as fast, at 4 KiB 53 ns (as `memcpy`) against 225.
#[cfg(target_arch = "x86_64")]
const LONG: usize = 256;

/// Copies out of memory that another process may be writing to.
///
/// By volatile loads, or one instruction that the compiler does not look into, so that every byte
/// is loaded once and the copy is what counts; a plain copy may be left out by the compiler, and
/// its source read again instead.
///
/// # Safety
///
/// `from` can be read and `to` be written for `length` bytes; they do not overlap.
#[inline]
unsafe fn copy_out(from: *const u8, to: *mut u8, length: usize) {
    #[cfg(target_arch = "x86_64")]
    if length >= LONG {
        // SAFETY: copies `length` bytes upwards (the direction flag is clear by the ABI) and
        // changes nothing else.
        unsafe {
            std::arch::asm!(
                "rep movsb",
                inout("rsi") from => _,
                inout("rdi") to => _,
                inout("rcx") length => _,
                options(nostack, preserves_flags),
            );
        }
        return;
    }
    let mut at = 0;
    // SAFETY: both stay below `length`; words are loaded only where `from` is aligned for them.
    unsafe {
        if from.addr().is_multiple_of(8) {
            while length - at >= 8 {
                let word = from.add(at).cast::<u64>().read_volatile();
                to.add(at).cast::<u64>().write_unaligned(word);
                at += 8;
            }
        }
        while at < length {
            to.add(at).write(from.add(at).read_volatile());
            at += 1;
        }
    }
}

/// The bytes of a value of one's own.
fn bytes_of<T: Fixed>(value: &T) -> &[u8] {
    // SAFETY: a fixed type has no padding, so all its bytes have a value; same memory and lifetime.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }
}

/// Writes a fixed message.
#[doc(hidden)]
#[inline]
pub fn encode_fixed<T: Fixed>(value: &T, place: &mut [u8]) -> Option<usize> {
    let bytes = bytes_of(value);
    place.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(bytes.len())
}

/// Reads a fixed message by one copy.
#[doc(hidden)]
#[inline]
pub fn decode_fixed<T: Fixed>(bytes: &[u8]) -> Option<T> {
    if bytes.len() != size_of::<T>() {
        return None;
    }
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: `bytes` are as many as the value has, and all of them are a value of it.
    unsafe {
        copy_out(bytes.as_ptr(), value.as_mut_ptr().cast(), bytes.len());
        Some(value.assume_init())
    }
}

/// Encodes a fixed value as a part of a rich message: its bytes.
#[doc(hidden)]
pub fn serialize_fixed<T: Fixed, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let bytes = bytes_of(value);
    let mut tuple = serializer.serialize_tuple(bytes.len())?;
    for byte in bytes {
        tuple.serialize_element(byte)?;
    }
    tuple.end()
}

/// Decodes a fixed value that is a part of a rich message.
#[doc(hidden)]
pub fn deserialize_fixed<'de, T: Fixed, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Filled<T>(PhantomData<T>);
    impl<'de, T: Fixed> Visitor<'de> for Filled<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} bytes", size_of::<T>())
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<T, A::Error> {
            let mut value = MaybeUninit::<T>::uninit();
            let first = value.as_mut_ptr().cast::<u8>();
            for at in 0..size_of::<T>() {
                let byte = items
                    .next_element()?
                    .ok_or_else(|| A::Error::invalid_length(at, &self))?;
                // SAFETY: below the size of the value.
                unsafe { first.add(at).write(byte) };
            }
            // SAFETY: all its bytes were written, and any bytes are a value.
            Ok(unsafe { value.assume_init() })
        }
    }
    deserializer.deserialize_tuple(size_of::<T>(), Filled(PhantomData))
}

/// The value of which all bytes are 0.
pub(super) fn zeroed<T: Fixed>() -> T {
    // SAFETY: any bytes are a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// A chunk as the value that is to be written there.
pub(super) fn place<T: Fixed>(chunk: &mut [u8]) -> Option<&mut T> {
    let place = chunk.get_mut(..size_of::<T>())?.as_mut_ptr().cast::<T>();
    if !place.is_aligned() {
        return None;
    }
    // SAFETY: long enough, aligned, any bytes are a value, exclusively borrowed as `chunk` was.
    Some(unsafe { &mut *place })
}

/// A fixed value that lies in shared memory, or is to be sent.
///
/// Nothing is read before it is asked for: [`Self::get`] copies the whole, [`Self::item`] and the
/// methods that the derive makes of a struct's fields (by the trait `TInPlace` beside `T`) lead to
/// a part.
pub struct InPlace<'a, T> {
    at: NonNull<T>,
    memory: PhantomData<&'a T>,
}

impl<T> Clone for InPlace<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for InPlace<'_, T> {}

impl<T: Fixed> fmt::Debug for InPlace<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl<'a, T: Fixed> InPlace<'a, T> {
    /// A value of one's own, to be sent.
    pub fn of(value: &'a T) -> Self {
        Self {
            at: NonNull::from(value),
            memory: PhantomData,
        }
    }

    /// `None` where the bytes are not as many or do not lie as the type asks for.
    #[inline]
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let at = NonNull::from(bytes).cast::<T>();
        (bytes.len() == size_of::<T>() && at.is_aligned()).then_some(Self {
            at,
            memory: PhantomData,
        })
    }

    /// A copy of the value as it is now.
    #[inline]
    pub fn get(&self) -> T {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: `at` can be read for the size of the value for as long as `'a`, and any bytes
        // are a value.
        unsafe {
            copy_out(
                self.at.as_ptr().cast(),
                value.as_mut_ptr().cast(),
                size_of::<T>(),
            );
            value.assume_init()
        }
    }

    /// Copies the value as it is now to `place`.
    #[inline]
    pub fn copy_to(&self, place: &mut T) {
        let place: *mut T = place;
        // SAFETY: as in `get`; `place` is exclusively borrowed.
        unsafe { copy_out(self.at.as_ptr().cast(), place.cast(), size_of::<T>()) }
    }

    /// The part of type `U` that begins `offset` bytes behind the value's beginning.
    ///
    /// # Panics
    ///
    /// Where no such part can lie.
    #[doc(hidden)]
    #[inline]
    pub fn part<U: Fixed>(&self, offset: usize) -> InPlace<'a, U> {
        let end = offset.checked_add(size_of::<U>());
        assert!(
            end.is_some_and(|end| end <= size_of::<T>()),
            "a part beyond the value"
        );
        // SAFETY: within the value, as was just asked.
        let at = unsafe { self.at.byte_add(offset).cast::<U>() };
        assert!(at.is_aligned(), "a part that does not lie there");
        InPlace {
            at,
            memory: PhantomData,
        }
    }
}

impl<'a, T: Fixed, const N: usize> InPlace<'a, [T; N]> {
    /// The item of this number; `None` beyond the last one.
    #[inline]
    pub fn item(&self, number: usize) -> Option<InPlace<'a, T>> {
        (number < N).then(|| self.part(number * size_of::<T>()))
    }

    /// All items, in order.
    pub fn items(&self) -> impl ExactSizeIterator<Item = InPlace<'a, T>> + use<'a, T, N> {
        let array = *self;
        (0..N).map(move |number| array.part(number * size_of::<T>()))
    }
}

impl<T: Fixed> Message for InPlace<'static, T> {
    type View<'a> = InPlace<'a, T>;
    const ENCODED_MAX: usize = {
        assert!(align_of::<T>() <= 64, "chunks are aligned to 64 bytes");
        size_of::<T>()
    };
    const IS_WHOLE: bool = true;

    fn schema() -> TypeSchema {
        TypeSchema::Fixed(Box::new(T::structure()))
    }

    #[inline]
    fn encode(value: &InPlace<'_, T>, chunk: &mut [u8]) -> Option<usize> {
        let chunk = chunk.get_mut(..size_of::<T>())?;
        // SAFETY: `at` can be read and `chunk` be written for the size of the value.
        unsafe {
            copy_out(value.at.as_ptr().cast(), chunk.as_mut_ptr(), size_of::<T>());
        }
        Some(size_of::<T>())
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Option<InPlace<'_, T>> {
        InPlace::read(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_whole_wherever_they_begin_and_however_long_they_are() {
        let source: Vec<u8> = (0..600).map(|number| number as u8).collect();
        for from in 0..9 {
            for length in (0..40).chain([255, 256, 257, 590]) {
                let mut copy = vec![0xff; length + 1];
                // SAFETY: both are long enough.
                unsafe { copy_out(source.as_ptr().add(from), copy.as_mut_ptr(), length) };
                assert_eq!(copy[..length], source[from..from + length]);
                assert_eq!(copy[length], 0xff);
            }
        }
    }

    #[test]
    fn a_value_is_found_only_where_it_fits() {
        let words = [1_u64, 2, 3];
        let bytes = bytes_of(&words);
        assert_eq!(decode_fixed::<[u64; 3]>(bytes), Some(words));
        assert_eq!(decode_fixed::<[u64; 3]>(&bytes[1..]), None);
        assert_eq!(decode_fixed::<u64>(&bytes[1..9]), Some(2 << 56));
        let message = InPlace::<[u64; 3]>::decode(bytes).unwrap();
        assert_eq!(message.get(), words);
        assert_eq!(message.item(2).unwrap().get(), 3);
        assert!(message.item(3).is_none());
        assert!(
            InPlace::<u64>::decode(&bytes[1..9]).is_none(),
            "not aligned"
        );
        assert!(InPlace::<u64>::decode(bytes).is_none(), "too long");
    }

    #[test]
    #[should_panic(expected = "a part beyond the value")]
    fn a_part_does_not_reach_beyond_its_value() {
        let value = [0_u32; 3];
        InPlace::of(&value).part::<u64>(8);
    }
}
