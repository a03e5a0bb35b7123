/*
 * tls_files.h - the private files of a TLS directory: read bounded, written whole or not at all.
 *
 * The directory is 0700 and made when missing (its parent must exist); files are 0600, written to
 * a temporary name, synced and renamed. No state; any thread. Two processes that prepare one
 * directory take turns through tls_files_lock().
 */
#ifndef TRANSPORT_TLS_FILES_H
#define TRANSPORT_TLS_FILES_H

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "transport/tls.h"

#define TLS_FILE_BYTES_MAX (256u << 10)

/* Says what went wrong with the directory's file `name`, and returns `error`. */
int tls_error_set(struct tls_error *e, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* The same with OpenSSL's own reason behind it; empties OpenSSL's queue of errors. */
int tls_error_set_openssl(struct tls_error *e, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Makes the directory where it is missing and locks it. The descriptor, to be closed; or -errno. */
int tls_files_lock(const char *directory, struct tls_error *error) MUST_CHECK;
/* The whole file, terminated by a zero beyond *ret_length; free() it. -ENOENT, -EFBIG, ... */
int tls_files_read(const char *directory, const char *name, char **ret_text, size_t *ret_length,
		   struct tls_error *error) MUST_CHECK;
int tls_files_write(const char *directory, const char *name, const void *data, size_t length,
		    struct tls_error *error) MUST_CHECK;
bool tls_files_exist(const char *directory, const char *name);

/* One certificate, one key. The caller frees. -ENOENT, -EBADMSG for what is not PEM. */
int tls_files_read_certificate(const char *directory, const char *name, X509 **ret_certificate,
			       struct tls_error *error) MUST_CHECK;
int tls_files_read_key(const char *directory, const char *name, EVP_PKEY **ret_key,
		       struct tls_error *error) MUST_CHECK;
int tls_files_write_key(const char *directory, const char *name, EVP_PKEY *key,
			struct tls_error *error) MUST_CHECK;
/* `certificate`, and `issuer` behind it unless NULL. */
int tls_files_write_certificate(const char *directory, const char *name, X509 *certificate,
				X509 *issuer, struct tls_error *error) MUST_CHECK;

/* One or two certificates as PEM text; free() it. NULL: out of memory. */
char *tls_certificate_text(X509 *certificate, X509 *issuer);

#endif
