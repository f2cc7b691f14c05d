//! The wire format of protocol buffers, as far as it is written here: numbers, texts and messages inside messages.
//!
//! As in proto3, a field that holds its type's default is left out; [`Message::message`] alone writes an empty one, because there its presence says something.
//! Source: "Encoding" of the protocol buffers documentation.

/// A message about to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED_32: u64 = 5;

impl Message {
    pub(crate) fn new() -> Message {
        Message::default()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds a whole number.
    pub(crate) fn integer(mut self, field: u64, value: i64) -> Message {
        if value != 0 {
            self.varint(field << 3 | VARINT);
            // A negative number takes the ten bytes of its two's complement.
            self.varint(value as u64);
        }
        self
    }

    /// Adds a truth.
    pub(crate) fn boolean(self, field: u64, value: bool) -> Message {
        self.integer(field, i64::from(value))
    }

    /// Adds a number of 64 bits.
    pub(crate) fn double(mut self, field: u64, value: f64) -> Message {
        if value.to_bits() != 0 {
            self.varint(field << 3 | FIXED_64);
            self.bytes.extend(value.to_le_bytes());
        }
        self
    }

    /// Adds a number of 32 bits, also where it is 0: for a member of a `oneof`.
    pub(crate) fn float_present(mut self, field: u64, value: f32) -> Message {
        self.varint(field << 3 | FIXED_32);
        self.bytes.extend(value.to_le_bytes());
        self
    }

    /// Adds a text.
    pub(crate) fn text(self, field: u64, value: &str) -> Message {
        match value {
            "" => self,
            _ => self.text_present(field, value),
        }
    }

    /// Adds a text, also where it is empty: for one of several of a field.
    pub(crate) fn text_present(mut self, field: u64, value: &str) -> Message {
        self.counted(field, value.as_bytes());
        self
    }

    /// Adds a message.
    pub(crate) fn message(mut self, field: u64, value: &Message) -> Message {
        self.counted(field, &value.bytes);
        self
    }

    fn counted(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | LENGTH);
        self.varint(bytes.len() as u64);
        self.bytes.extend(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The examples of the encoding's documentation, and the edges of its rules.
    #[test]
    fn fields_are_written_as_documented() {
        assert_eq!(Message::new().integer(1, 150).bytes(), [0x08, 0x96, 0x01]);
        let testing = [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67];
        assert_eq!(Message::new().text(2, "testing").bytes(), testing);
        let inner = Message::new().integer(1, 150);
        assert_eq!(
            Message::new().message(3, &inner).bytes(),
            [0x1a, 0x03, 0x08, 0x96, 0x01]
        );
        assert_eq!(
            Message::new().integer(1, -2).bytes(),
            [8, 254, 255, 255, 255, 255, 255, 255, 255, 255, 1]
        );
        assert_eq!(Message::new().double(1, 1.0).bytes(), [9, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        assert_eq!(Message::new().float_present(2, 0.0).bytes(), [0x15, 0, 0, 0, 0]);
        assert_eq!(Message::new().integer(200, 1).bytes(), [0xc0, 0x0c, 1]);
        let left_out = Message::new()
            .integer(1, 0)
            .boolean(2, false)
            .double(3, 0.0)
            .text(4, "");
        assert_eq!(left_out, Message::new());
        assert_eq!(
            Message::new().message(1, &left_out).text_present(2, "").bytes(),
            [0x0a, 0, 0x12, 0]
        );
    }
}
