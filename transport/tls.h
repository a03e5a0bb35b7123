/*
 * tls.h - certificates and TLS contexts: who a host is, and who the origin is.
 *
 * The origin is its own certificate authority: `tls_authority_prepare` makes the CA, the origin's
 * certificate and a join token in the state directory on first start. A host joins with the token:
 * it makes a key, sends a signing request to /v1/join, and keeps the signed certificate. The token
 * carries the SHA-256 of the CA's certificate, so that the host knows the origin before it trusts
 * it: <base64url(16 bytes secret)>.<base64url(32 bytes fingerprint)>.
 *
 * TLS 1.3 only, ALPN h2. All files are 0600 in a 0700 directory, written to a temporary name and
 * renamed. All functions may be called from any thread; errors are logged nowhere: `error`
 * receives one line for the user that says what and what next.
 */
#ifndef TRANSPORT_TLS_H
#define TRANSPORT_TLS_H

#include <openssl/ssl.h>

#include "lease/base/types.h"

#define TLS_ERROR_BYTES 512
struct tls_error {
	char text[TLS_ERROR_BYTES];
};

#define TLS_TOKEN_BYTES 80 /* with its terminating zero */

/*
 * The origin's side. Files in `directory`: ca.pem ca.key origin.pem origin.key token. Made where
 * they are missing; the origin's certificate names `host_names` (NULL-terminated: DNS names or
 * addresses; localhost, 127.0.0.1, ::1 and the machine's name are always in it) and is made anew
 * when it lacks one of them or is near its end. 0 or -errno.
 */
int tls_authority_prepare(const char *directory, const char *const *host_names,
			  char ret_token[TLS_TOKEN_BYTES], struct tls_error *error) MUST_CHECK;
/* A server context: requests client certificates, but lets a client without one connect (it may
   only join; the server tells by tls_peer_name()). NULL with error set. The caller frees it. */
SSL_CTX *tls_server_context(const char *directory, struct tls_error *error) MUST_CHECK;
/*
 * Signs `request_pem` for a host. -EACCES: wrong token; -EINVAL: not a signing request. The
 * subject's common name becomes the host's name, cleaned to [A-Za-z0-9._-], at most 64 bytes.
 * On success *ret_pem is the certificate followed by the CA's; free() it.
 */
int tls_sign(const char *directory, const char *token, const char *request_pem, char **ret_pem,
	     struct tls_error *error) MUST_CHECK;
/* The common name in the verified certificate of the peer; false when it showed none. */
bool tls_peer_name(SSL *ssl, char *ret_name, size_t size);

/*
 * The host's side. Files in `directory` (of this host, kept with its configuration; one folder for
 * each origin): host.pem host.key ca.pem. `tls_join` gets them by the token from `url`
 * (https://HOST:PORT); blocks up to 30 s. -EACCES wrong token, -ECONNREFUSED and the like when the
 * origin is not there, -EKEYREJECTED when the origin is not the one that the token names.
 */
int tls_join(const char *url, const char *token, const char *directory, const char *host_name,
	     struct tls_error *error) MUST_CHECK;
/* True when `directory` has what a mount needs. */
bool tls_joined(const char *directory);

#endif
