#include "transport/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509_vfy.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "transport/tls_certificate.h"
#include "transport/tls_files.h"
#include "transport/tls_token.h"

#define NAMES_BYTES_MAX	  4096u
#define REQUEST_BYTES_MAX (16u << 10)
/* AES-128 first: on machines with AES instructions it is the fastest, and 128 bits are enough. */
#define CIPHER_SUITES                                                                              \
	"TLS_AES_128_GCM_SHA256:"                                                                  \
	"TLS_AES_256_GCM_SHA384:"                                                                  \
	"TLS_CHACHA20_POLY1305_SHA256"
/* One system call reads this much ciphertext. */
#define READ_BUFFER_BYTES (128u << 10)

struct authority {
	X509 *certificate;
	EVP_PKEY *key;
};

static void authority_finish(struct authority *a)
{
	X509_free(a->certificate);
	EVP_PKEY_free(a->key);
}

static int authority_read(const char *directory, struct authority *ret_authority,
			  struct tls_error *error)
{
	struct authority a = { NULL, NULL };
	int result = tls_files_read_certificate(directory, "ca.pem", &a.certificate, error);

	if (result == 0)
		result = tls_files_read_key(directory, "ca.key", &a.key, error);
	if (result == 0 && X509_check_private_key(a.certificate, a.key) != 1)
		result = tls_error_set_openssl(error, -EBADMSG,
					       "%s/ca.key is not the key of ca.pem; restore both",
					       directory);
	if (result < 0)
		authority_finish(&a);
	else
		*ret_authority = a;
	return result;
}

static int authority_make(const char *directory, struct tls_error *error)
{
	struct authority a = { NULL, tls_key_make() };
	int result;

	/* The key first: a certificate without its key would look like an authority. */
	a.certificate = a.key ? tls_certificate_make(TLS_AUTHORITY, "Leasehold origin authority",
						     NULL, a.key, NULL, NULL)
			      : NULL;
	if (!a.certificate)
		result = tls_error_set_openssl(error, -ENOMEM, "cannot make the authority's key");
	else
		result = tls_files_write_key(directory, "ca.key", a.key, error);
	if (result == 0)
		result = tls_files_write_certificate(directory, "ca.pem", a.certificate, NULL,
						     error);
	authority_finish(&a);
	return result;
}

static int authority_get(const char *directory, struct authority *ret_authority,
			 struct tls_error *error)
{
	int result;

	/* Only a missing certificate means a first start. Never replace what cannot be read. */
	if (!tls_files_exist(directory, "ca.pem")) {
		result = authority_make(directory, error);
		if (result < 0)
			return result;
	}
	return authority_read(directory, ret_authority, error);
}

/* Calls `each` for the names that every origin's certificate carries, then for `names`. */
static bool every_name(const char *const *names, bool (*each)(void *context, const char *name),
		       void *context)
{
	static const char *const always[] = { "localhost", "127.0.0.1", "::1" };
	char machine[256];

	for (unsigned i = 0; i < 3; i++)
		if (!each(context, always[i]))
			return false;
	if (gethostname(machine, sizeof(machine)) == 0) {
		machine[sizeof(machine) - 1] = 0;
		if (machine[0] && !each(context, machine))
			return false;
	}
	for (; names && *names; names++)
		if (!each(context, *names))
			return false;
	return true;
}

static bool is_named(void *certificate, const char *name)
{
	return tls_certificate_names(certificate, name);
}

struct name_list {
	char text[NAMES_BYTES_MAX];
	size_t at;
};

static bool append_name(void *context, const char *name)
{
	struct name_list *list = context;
	unsigned char address[sizeof(struct in6_addr)];
	bool is_address =
		inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1;
	int n;

	/* A comma or a line would be another entry of OpenSSL's little language. */
	if (!name[0] || name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
					  "0123456789.-_:*")])
		return false;
	n = snprintf(list->text + list->at, sizeof(list->text) - list->at, "%s%s:%s",
		     list->at ? "," : "", is_address ? "IP" : "DNS", name);
	if (n < 0 || (size_t)n >= sizeof(list->text) - list->at)
		return false;
	list->at += (size_t)n;
	return true;
}

static bool origin_stands(const char *directory, const struct authority *a,
			  const char *const *names)
{
	struct tls_error ignored; /* whatever is wrong with the pair, it is made anew */
	X509 *certificate = NULL;
	EVP_PKEY *key = NULL;
	bool stands;

	stands = tls_files_read_certificate(directory, "origin.pem", &certificate, &ignored) == 0 &&
		 tls_files_read_key(directory, "origin.key", &key, &ignored) == 0 &&
		 tls_certificate_stands(certificate, key, a->certificate) &&
		 every_name(names, is_named, certificate);
	X509_free(certificate);
	EVP_PKEY_free(key);
	return stands;
}

static int origin_make(const char *directory, const struct authority *a, const char *const *names,
		       struct tls_error *error)
{
	struct name_list list = { .at = 0 };
	X509 *certificate = NULL;
	EVP_PKEY *key;
	int result;

	if (!every_name(names, append_name, &list))
		return tls_error_set(error, -EINVAL,
				     "a host name of the origin is no DNS name and no address, or "
				     "there are too many; got as far as \"%s\"",
				     list.text);
	key = tls_key_make();
	if (key)
		certificate = tls_certificate_make(TLS_ORIGIN, "Leasehold origin", list.text, key,
						   a->certificate, a->key);
	if (!certificate)
		result = tls_error_set_openssl(
			error, -EINVAL, "cannot make the origin's certificate for %s", list.text);
	else
		result = tls_files_write_key(directory, "origin.key", key, error);
	if (result == 0)
		result = tls_files_write_certificate(directory, "origin.pem", certificate,
						     a->certificate, error);
	X509_free(certificate);
	EVP_PKEY_free(key);
	return result;
}

static int token_read(const char *directory, struct tls_token *ret_token, struct tls_error *error)
{
	char *text = NULL;
	size_t length;
	int result = tls_files_read(directory, "token", &text, &length, error);

	if (result < 0)
		return result;
	if (!tls_token_read(text, ret_token))
		result = tls_error_set(error, -EBADMSG,
				       "%s/token is not a token; remove it to have a new one made",
				       directory);
	OPENSSL_cleanse(text, length);
	free(text);
	return result;
}

/* The token of this authority: a file for another one is replaced. */
static int token_get(const char *directory, const struct authority *a,
		     char ret_text[TLS_TOKEN_BYTES], struct tls_error *error)
{
	struct tls_token wanted;
	struct tls_token token;
	int result;

	if (!tls_certificate_fingerprint(a->certificate, wanted.fingerprint) ||
	    RAND_bytes(wanted.secret, sizeof(wanted.secret)) != 1)
		return tls_error_set_openssl(error, -EIO, "cannot make a token in %s", directory);
	result = token_read(directory, &token, error);
	if (result < 0 && result != -ENOENT)
		return result;
	if (result == 0 &&
	    memcmp(token.fingerprint, wanted.fingerprint, sizeof(token.fingerprint)) == 0) {
		tls_token_write(&token, ret_text);
		return 0;
	}
	tls_token_write(&wanted, ret_text);
	return tls_files_write(directory, "token", ret_text, strlen(ret_text), error);
}

int tls_authority_prepare(const char *directory, const char *const *host_names,
			  char ret_token[TLS_TOKEN_BYTES], struct tls_error *error)
{
	struct authority a;
	int lock = tls_files_lock(directory, error);
	int result;

	if (lock < 0)
		return lock;
	result = authority_get(directory, &a, error);
	if (result == 0) {
		if (!origin_stands(directory, &a, host_names))
			result = origin_make(directory, &a, host_names, error);
		if (result == 0)
			result = token_get(directory, &a, ret_token, error);
		authority_finish(&a);
	}
	close(lock);
	return result;
}

static int select_h2(SSL *ssl, const unsigned char **ret_name, unsigned char *ret_length,
		     const unsigned char *names, unsigned length, void *context)
{
	for (unsigned i = 0; i < length && names[i] < length - i; i += 1u + names[i]) {
		if (names[i] == 2 && memcmp(names + i + 1, "h2", 2) == 0) {
			*ret_name = names + i + 1;
			*ret_length = 2;
			return SSL_TLSEXT_ERR_OK;
		}
	}
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static bool configure_server(SSL_CTX *context, const char *directory)
{
	char chain[4096];
	char key[4096];
	char authority[4096];
	STACK_OF(X509_NAME) * names;

	(void)snprintf(chain, sizeof(chain), "%s/origin.pem", directory);
	(void)snprintf(key, sizeof(key), "%s/origin.key", directory);
	(void)snprintf(authority, sizeof(authority), "%s/ca.pem", directory);
	names = SSL_load_client_CA_file(authority);
	if (!names)
		return false;
	SSL_CTX_set_client_CA_list(context, names);
	/* The chain carries the authority itself: a host with only a token can check it. */
	return SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) &&
	       SSL_CTX_set_ciphersuites(context, CIPHER_SUITES) &&
	       SSL_CTX_use_certificate_chain_file(context, chain) == 1 &&
	       SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) == 1 &&
	       SSL_CTX_check_private_key(context) == 1 &&
	       SSL_CTX_load_verify_locations(context, authority, NULL) == 1;
}

SSL_CTX *tls_server_context(const char *directory, struct tls_error *error)
{
	SSL_CTX *context = SSL_CTX_new(TLS_server_method());

	if (!context || !configure_server(context, directory)) {
		SSL_CTX_free(context);
		(void)tls_error_set_openssl(error, 0, "cannot use the certificates in %s",
					    directory);
		return NULL;
	}
	SSL_CTX_set_options(context, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA |
					     SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET);
	SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE |
					  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
					  SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN);
	/* Connections live long: resuming sessions would save nothing. */
	SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_num_tickets(context, 0);
	SSL_CTX_set_read_ahead(context, 1);
	SSL_CTX_set_default_read_buffer_len(context, READ_BUFFER_BYTES);
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_verify_depth(context, 1);
	SSL_CTX_set_alpn_select_cb(context, select_h2, NULL);
	return context;
}

static X509_REQ *read_request(const char *pem)
{
	size_t length = strnlen(pem, REQUEST_BYTES_MAX);
	BIO *bio = BIO_new_mem_buf(pem, (int)length);
	X509_REQ *request = NULL;
	EVP_PKEY *key;

	if (bio && length < REQUEST_BYTES_MAX)
		request = PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL);
	BIO_free(bio);
	key = request ? X509_REQ_get0_pubkey(request) : NULL;
	/* Signed by its own key: who asks has it. 112 bits: what NIST SP 800-57 still allows. */
	if (key && X509_REQ_verify(request, key) == 1 && EVP_PKEY_get_security_bits(key) >= 112)
		return request;
	X509_REQ_free(request);
	return NULL;
}

static int sign_request(const struct authority *a, X509_REQ *request, char **ret_pem,
			struct tls_error *error)
{
	char name[TLS_NAME_BYTES_MAX + 1];
	X509 *certificate;
	char *pem;

	if (!tls_common_name(X509_REQ_get_subject_name(request), name, sizeof(name)))
		return tls_error_set(error, -EINVAL,
				     "the signing request names no host; use letters, digits, "
				     "dots, dashes or underscores");
	certificate = tls_certificate_make(TLS_HOST, name, NULL, X509_REQ_get0_pubkey(request),
					   a->certificate, a->key);
	pem = certificate ? tls_certificate_text(certificate, a->certificate) : NULL;
	X509_free(certificate);
	if (!pem)
		return tls_error_set_openssl(error, -ENOMEM, "cannot sign for %s", name);
	*ret_pem = pem;
	return 0;
}

int tls_sign(const char *directory, const char *token, const char *request_pem, char **ret_pem,
	     struct tls_error *error)
{
	struct authority a;
	struct tls_token ours;
	struct tls_token theirs;
	X509_REQ *request;
	int result = token_read(directory, &ours, error);

	if (result < 0)
		return result;
	if (!tls_token_read(token, &theirs) || !tls_token_equal(&ours, &theirs))
		return tls_error_set(error, -EACCES,
				     "wrong token; the origin prints it when it starts");
	request = read_request(request_pem);
	if (!request)
		return tls_error_set_openssl(error, -EINVAL,
					     "not a certificate signing request in PEM");
	result = authority_read(directory, &a, error);
	if (result == 0) {
		result = sign_request(&a, request, ret_pem, error);
		authority_finish(&a);
	}
	X509_REQ_free(request);
	return result;
}

bool tls_peer_name(SSL *ssl, char *ret_name, size_t size)
{
	X509 *certificate = SSL_get0_peer_certificate(ssl);

	return certificate && SSL_get_verify_result(ssl) == X509_V_OK &&
	       tls_common_name(X509_get_subject_name(certificate), ret_name, size);
}

bool tls_joined(const char *directory)
{
	return tls_files_exist(directory, "host.pem") && tls_files_exist(directory, "host.key") &&
	       tls_files_exist(directory, "ca.pem");
}
