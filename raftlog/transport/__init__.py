"""The wire: Channels consumers for what comes in, plain sockets with the websockets protocol for what goes out.

close_codes, frames, handshake   what is said, and why a connection ends; no I/O
consumers, outbox, routing       inbound, on Daphne's event loop
server                           Daphne inside this process
streams, connection              outbound, blocking
peer_channel                     the connection of one peer thread (ports.PeerChannel)
client, client_messages          app process to node (ports.Proposer)
memory                           a network inside one process, for tests
"""
