//! What jobs do to bytes: a piece of input at a time, into a buffer of output.
//!
//! A [`Stream`] is taken up again wherever it was left; it knows nothing of memory.
//!
//! Spec: RFC 1951 "DEFLATE Compressed Data Format Specification"; docs/accelerator.md, "Jobs".

use flate2::{Compress, Compression, Crc, Decompress, FlushCompress, FlushDecompress, Status};

use super::job::Op;

/// How much output a turn makes at most.
const TURN_BYTES: usize = 32 << 10;

enum Codec {
    Deflate(Compress),
    Inflate(Decompress),
    Copy,
    Fill { byte: u8, left: u64 },
    Sum,
}

/// A job's bytes under way.
pub(super) struct Stream {
    codec: Codec,
    crc: Crc,
    consumed: u64,
    ended: bool,
}

/// The input of inflate is no deflate stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoStream;

impl Stream {
    /// What `op` does. `bytes` is how many there are to fill.
    pub(super) fn new(op: Op, bytes: u64) -> Self {
        let codec = match op {
            Op::Deflate => Codec::Deflate(Compress::new(Compression::fast(), false)),
            Op::Inflate => Codec::Inflate(Decompress::new(false)),
            Op::Copy => Codec::Copy,
            Op::Fill(byte) => Codec::Fill { byte, left: bytes },
            Op::Sum => Codec::Sum,
        };
        Self { codec, crc: Crc::new(), consumed: 0, ended: false }
    }

    /// Whether all output there will be was made.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Whether small output is to be collected before it is written.
    pub(super) fn collects(&self) -> bool {
        matches!(self.codec, Codec::Deflate(_))
    }

    /// Whether it copies: then what was used is what was written.
    pub(super) fn copies(&self) -> bool {
        matches!(self.codec, Codec::Copy)
    }

    /// Bytes of input that were used.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// CRC-32 of the uncompressed bytes.
    pub(super) fn sum(&self) -> u32 {
        self.crc.sum()
    }

    /// Output was written: where it is the uncompressed side, it counts for the sum.
    pub(super) fn written(&mut self, bytes: &[u8]) {
        if matches!(self.codec, Codec::Inflate(_) | Codec::Copy | Codec::Fill { .. }) {
            self.crc.update(bytes);
        }
    }

    /// Goes on with `input`, behind which there is nothing if `last`; appends to `output`. Answers how much of it was used.
    pub(super) fn turn(&mut self, input: &[u8], last: bool, output: &mut Vec<u8>) -> Result<usize, NoStream> {
        output.reserve(TURN_BYTES);
        let used = match &mut self.codec {
            Codec::Deflate(codec) => {
                let (used, ended) = deflate(codec, input, last, output)?;
                self.crc.update(&input[..used]);
                self.ended = ended;
                used
            }
            Codec::Inflate(codec) => {
                let (used, ended) = inflate(codec, input, last, output)?;
                self.ended = ended;
                used
            }
            Codec::Copy => {
                output.extend_from_slice(input);
                self.ended = last;
                input.len()
            }
            Codec::Fill { byte, left } => {
                let piece = (*left).min(TURN_BYTES as u64);
                output.resize(output.len() + piece as usize, *byte);
                *left -= piece;
                self.ended = *left == 0;
                0
            }
            Codec::Sum => {
                self.crc.update(input);
                self.ended = last;
                input.len()
            }
        };
        self.consumed += used as u64;
        Ok(used)
    }
}

/// Answers how much was used, and whether the stream has ended.
fn deflate(
    codec: &mut Compress,
    input: &[u8],
    last: bool,
    output: &mut Vec<u8>,
) -> Result<(usize, bool), NoStream> {
    let before = codec.total_in();
    let flush = if last { FlushCompress::Finish } else { FlushCompress::None };
    let status = codec.compress_vec(input, output, flush).map_err(|_| NoStream)?;
    Ok(((codec.total_in() - before) as usize, status == Status::StreamEnd))
}

/// The same of inflate. A stream that makes no progress with all its input there has no end.
fn inflate(
    codec: &mut Decompress,
    input: &[u8],
    last: bool,
    output: &mut Vec<u8>,
) -> Result<(usize, bool), NoStream> {
    let before = (codec.total_in(), output.len());
    let status = codec.decompress_vec(input, output, FlushDecompress::None).map_err(|_| NoStream)?;
    let used = (codec.total_in() - before.0) as usize;
    let stuck = used == 0 && output.len() == before.1;
    let ended = status == Status::StreamEnd;
    if stuck && !ended && (last || !input.is_empty()) {
        return Err(NoStream);
    }
    Ok((used, ended))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs a stream over input that comes in pieces: output and sum.
    fn run(op: Op, input: &[u8], piece: usize, bytes: u64) -> Result<(Vec<u8>, u32, u64), NoStream> {
        let mut stream = Stream::new(op, bytes);
        let mut output = Vec::new();
        let mut at = 0;
        let mut end = 0;
        while !stream.ended() {
            if at == end {
                end = (at + piece).min(input.len());
            }
            let before = output.len();
            at += stream.turn(&input[at..end], end == input.len(), &mut output)?;
            let new = output[before..].to_vec();
            stream.written(&new);
        }
        Ok((output, stream.sum(), stream.consumed()))
    }

    #[test]
    fn an_empty_input_deflates_to_two_bytes() {
        assert_eq!(run(Op::Deflate, &[], 4096, 0), Ok((vec![0x03, 0x00], 0, 0)));
        assert_eq!(run(Op::Inflate, &[0x03, 0x00], 4096, 0), Ok((vec![], 0, 2)));
        assert_eq!(run(Op::Inflate, &[], 4096, 0), Err(NoStream));
    }

    #[test]
    fn a_stored_block_by_hand_inflates() {
        // RFC 1951, 3.2.4: final, stored, LEN 3, NLEN, bytes; and a byte that does not belong to it.
        let stored = [0x01, 0x03, 0x00, 0xfc, 0xff, b'a', b'b', b'c', 0xee];
        assert_eq!(run(Op::Inflate, &stored, 1, 0), Ok((b"abc".to_vec(), 0x3524_41c2, 8)));
        assert_eq!(run(Op::Inflate, &stored[..7], 2, 0), Err(NoStream));
        assert_eq!(run(Op::Inflate, &[0x07], 1, 0), Err(NoStream));
    }

    #[test]
    fn sums_are_those_of_ieee_802_3() {
        assert_eq!(run(Op::Sum, b"123456789", 4, 0), Ok((vec![], 0xcbf4_3926, 9)));
        assert_eq!(run(Op::Copy, b"123456789", 4, 0), Ok((b"123456789".to_vec(), 0xcbf4_3926, 9)));
        assert_eq!(run(Op::Deflate, b"123456789", 2, 0).unwrap().1, 0xcbf4_3926);
        let (filled, sum, used) = run(Op::Fill(0xff), &[], 4096, 4).unwrap();
        assert_eq!((filled, sum, used), (vec![0xff; 4], 0xffff_ffff, 0));
    }

    proptest! {
        #[test]
        fn what_was_deflated_inflates_to_what_it_was(
            parts in prop::collection::vec((any::<u8>(), 1usize..3000), 0..40),
            noise in prop::collection::vec(any::<u8>(), 0..9000),
            pieces in (1usize..5000, 1usize..5000),
        ) {
            let mut input: Vec<u8> = parts.iter().flat_map(|&(byte, len)| vec![byte; len]).collect();
            input.extend(noise);
            let (small, sum, used) = run(Op::Deflate, &input, pieces.0, 0).unwrap();
            prop_assert_eq!(used, input.len() as u64);
            let (back, sum_back, used) = run(Op::Inflate, &small, pieces.1, 0).unwrap();
            prop_assert_eq!(used, small.len() as u64);
            prop_assert_eq!(sum, sum_back);
            prop_assert!(back == input);
        }

        #[test]
        fn inflate_ends_on_any_bytes(input in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..64) {
            let _ = run(Op::Inflate, &input, piece, 0);
        }
    }
}
