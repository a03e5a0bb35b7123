/*
 * tls_certificate.h - makes and judges the X.509 certificates of a Leasehold origin.
 *
 * Keys are EC P-256. Lifetimes: authority 20 years, everything it signs 10 years; there is no
 * renewal of hosts yet, so that a host that outlives its certificate joins again. No state; any
 * thread.
 */
#ifndef TRANSPORT_TLS_CERTIFICATE_H
#define TRANSPORT_TLS_CERTIFICATE_H

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "lease/base/types.h"

#define TLS_AUTHORITY_DAYS (20 * 365)
#define TLS_CERTIFICATE_DAYS (10 * 365)
#define TLS_RENEW_DAYS 365 /* the origin's own certificate is made anew this long before its end */
#define TLS_NAME_BYTES_MAX 64u /* ub-common-name of RFC 5280 */
#define TLS_FINGERPRINT_BYTES 32u

/* NULL: out of memory, or the library failed. The caller frees. */
EVP_PKEY *tls_key_make(void);

enum tls_role {
	TLS_AUTHORITY, /* signs; signed by itself */
	TLS_ORIGIN,    /* serverAuth only */
	TLS_HOST,      /* clientAuth only: a host cannot pose as an origin */
};

/*
 * A certificate for the public part of `key`. `issuer` and `issuer_key` are NULL for
 * TLS_AUTHORITY. `alternative_names` is OpenSSL's "DNS:a,IP:1.2.3.4", or NULL. NULL on failure.
 */
X509 *tls_certificate_make(enum tls_role role, const char *common_name,
			   const char *alternative_names, EVP_PKEY *key, X509 *issuer,
			   EVP_PKEY *issuer_key);

/* True when `certificate` is for `name`, a DNS name or an address. */
bool tls_certificate_names(X509 *certificate, const char *name);
/* True when it was signed by `issuer`, is for `key`, and stays valid for TLS_RENEW_DAYS. */
bool tls_certificate_stands(X509 *certificate, EVP_PKEY *key, X509 *issuer);
/* SHA-256 of its encoding. False: the library failed. */
bool tls_certificate_fingerprint(X509 *certificate,
				 uint8_t ret_fingerprint[TLS_FINGERPRINT_BYTES]) MUST_CHECK;
/* The common name, cleaned to [A-Za-z0-9._-] and cut; false when nothing of it is left. */
bool tls_common_name(const X509_NAME *subject, char *ret_name, size_t size);

#endif
