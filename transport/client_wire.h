/*
 * client_wire.h - the sockets of a lane, and what lies between them and OpenSSL.
 *
 * libcurl 7.88 writes a DATA frame at a time, which are two records and as many system calls for
 * 16 KiB, and reads each record in two. Here what is written waits until the end of a turn, or until
 * there is enough of it, and leaves in one send(); and OpenSSL reads ahead. Both hide bytes from
 * libcurl, so both are this object's to watch: epoll's events of a socket are what libcurl wants and
 * what is held needs, and wire_unread() says that libcurl is to be called although the socket is silent.
 *
 * The client's thread only. A wire lives in its connection's SSL, and ends with it.
 */
#ifndef TRANSPORT_CLIENT_WIRE_H
#define TRANSPORT_CLIENT_WIRE_H

#include <openssl/ssl.h>

#include "transport/client_internal.h"

/* Once in a process. 0 or -ENOMEM. */
int wire_library_init(void) MUST_CHECK;

/* A socket was made, or is to be closed: by libcurl, which says so of every connection's. False: there
   are too many. */
bool wire_opened(struct lane *lane, curl_socket_t fd);
void wire_closed(struct lane *lane, curl_socket_t fd);
/* What libcurl wants to be told of a socket (EPOLLIN, EPOLLOUT, or 0); `gone`: nothing any more.
   False: it cannot be watched. */
bool wire_want(struct lane *lane, curl_socket_t fd, uint32_t events, bool gone);

/* OpenSSL is to read ahead in connections of this context. */
void wire_prepare(SSL_CTX *context);
/* The handshake of a connection of this lane is done. Where it is not clear which socket is its, or
   memory is out, it stays as it is. */
void wire_begin(struct lane *lane, SSL *ssl);

/* Sends what is held, as far as the sockets take it; watches for the rest. */
void wire_flush(struct lane *lane);
/* A socket can be written to: the bytes that are held go first. */
void wire_writable(struct lane *lane, curl_socket_t fd);
/* OpenSSL has bytes that it may not have been asked for. */
bool wire_unread(const struct lane *lane);

#endif
