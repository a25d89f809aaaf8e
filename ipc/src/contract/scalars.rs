//! The messages that Rust has already: nothing, `bool` and numbers.

use insula_contract::encoding;
use insula_contract::schema::TypeSchema;

use super::Message;

macro_rules! scalars {
    ($($scalar:ty => $schema:expr, $encoded_max:literal;)*) => {$(
        impl Message for $scalar {
            type View<'a> = Self;
            const ENCODED_MAX: usize = $encoded_max;
            fn schema() -> TypeSchema {
                $schema
            }
            fn encode(value: &Self, place: &mut [u8]) -> Option<usize> {
                encoding::encode(value, place, Self::ENCODED_MAX)
            }
            fn decode(bytes: &[u8]) -> Option<Self> {
                encoding::decode(bytes)
            }
        }
    )*};
}

// The lengths are those of postcard's varints; what is of one byte, and floats, have fixed lengths.
scalars! {
    () => TypeSchema::Struct(Vec::new()), 0;
    bool => TypeSchema::Bool, 1;
    u8 => TypeSchema::U8, 1;
    u16 => TypeSchema::U16, 3;
    u32 => TypeSchema::U32, 5;
    u64 => TypeSchema::U64, 10;
    i8 => TypeSchema::I8, 1;
    i16 => TypeSchema::I16, 3;
    i32 => TypeSchema::I32, 5;
    i64 => TypeSchema::I64, 10;
    f32 => TypeSchema::F32, 4;
    f64 => TypeSchema::F64, 8;
}
