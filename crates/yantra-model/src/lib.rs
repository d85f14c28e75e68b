//! Model families as data and the one decoder and encoder that interpret them.
