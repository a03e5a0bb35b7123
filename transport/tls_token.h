/*
 * tls_token.h - the text that lets a host join: a secret, and the origin's fingerprint.
 *
 * <base64url(16 bytes secret)>.<base64url(32 bytes SHA-256 of the authority's certificate)>,
 * without padding. No state; any thread.
 */
#ifndef TRANSPORT_TLS_TOKEN_H
#define TRANSPORT_TLS_TOKEN_H

#include "transport/tls.h"
#include "transport/tls_certificate.h"

#define TLS_SECRET_BYTES 16u

struct tls_token {
	uint8_t secret[TLS_SECRET_BYTES];
	uint8_t fingerprint[TLS_FINGERPRINT_BYTES];
};

void tls_token_write(const struct tls_token *token, char ret_text[TLS_TOKEN_BYTES]);
/* False when it is not the text of a token; white space around it is allowed. */
bool tls_token_read(const char *text, struct tls_token *ret_token) MUST_CHECK;
/* Takes the same time wherever they differ. */
bool tls_token_equal(const struct tls_token *a, const struct tls_token *b);

#endif
