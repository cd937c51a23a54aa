//! The codec of every call, named in `build.rs`: protobuf, as tonic has it, with small buffers.
use prost::Message;
use std::marker::PhantomData;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// Bytes that a stream sets aside in each direction before anything is said; a longer message gets more. tonic's own 8 KiB are
/// most of what an idle control stream would hold, of which an operator has ten thousand.
const BUFFER: usize = 512;
/// Bytes after which a stream that sends many messages lets others go on; tonic's own number.
const YIELD: usize = 32 * 1024;

/// Encodes `T`, decodes `U`.
#[derive(Debug, Clone, Copy)]
pub struct Frugal<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Frugal<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Frugal<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER, YIELD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER, YIELD))
    }
}
