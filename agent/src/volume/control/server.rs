//! The answering side of the control socket.
