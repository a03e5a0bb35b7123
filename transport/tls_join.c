/* How a host gets its certificate: tls_join() of tls.h. */
#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "transport/error.h"
#include "transport/tls.h"
#include "transport/tls_certificate.h"
#include "transport/tls_files.h"
#include "transport/tls_token.h"

#define JOIN_TIMEOUT_MS	 30000L
#define ANSWER_BYTES_MAX (64u << 10)

struct join {
	const char *url;
	const struct tls_token *token;
	char answer[ANSWER_BYTES_MAX + 1];
	size_t answer_length;
	bool stranger; /* the chain has no certificate with the token's fingerprint */
};

static X509 *find_pinned(STACK_OF(X509) * chain, const uint8_t *fingerprint)
{
	uint8_t found[TLS_FINGERPRINT_BYTES];

	for (int i = 0; i < sk_X509_num(chain); i++) {
		X509 *certificate = sk_X509_value(chain, i);

		if (X509_self_signed(certificate, 1) == 1 &&
		    tls_certificate_fingerprint(certificate, found) &&
		    memcmp(found, fingerprint, sizeof(found)) == 0)
			return certificate;
	}
	return NULL;
}

/*
 * In place of OpenSSL's own check of the chain: the authority that the token names is the only
 * trusted one, and then the usual check runs. libcurl compares the host's name afterwards.
 */
static int verify_chain(X509_STORE_CTX *store, void *context)
{
	struct join *join = context;
	X509 *authority =
		find_pinned(X509_STORE_CTX_get0_untrusted(store), join->token->fingerprint);
	STACK_OF(X509) *trusted = authority ? sk_X509_new_null() : NULL;
	int result = 0;

	join->stranger = !authority;
	if (trusted && sk_X509_push(trusted, authority)) {
		X509_STORE_CTX_set0_trusted_stack(store, trusted);
		result = X509_verify_cert(store) == 1;
	} else {
		X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_UNTRUSTED);
	}
	/* The store's context is freed before anybody looks at the stack again; the certificate in
	   it belongs to the chain. */
	X509_STORE_CTX_set0_trusted_stack(store, NULL);
	sk_X509_free(trusted);
	return result;
}

static CURLcode set_verify(CURL *easy, void *ssl_context, void *context)
{
	SSL_CTX_set_cert_verify_callback(ssl_context, verify_chain, context);
	return CURLE_OK;
}

static size_t take_answer(char *data, size_t size, size_t count, void *context)
{
	struct join *join = context;

	if (count > ANSWER_BYTES_MAX - join->answer_length)
		return 0;
	memcpy(join->answer + join->answer_length, data, count);
	join->answer_length += count;
	join->answer[join->answer_length] = 0;
	return count;
}

/* A signing request for `name` by `key`, as PEM text to free(). NULL: out of memory. */
static char *make_request(EVP_PKEY *key, const char *name)
{
	X509_REQ *request = X509_REQ_new();
	BIO *bio = BIO_new(BIO_s_mem());
	char *text = NULL;
	char *data;
	long length;

	if (request && bio &&
	    X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(request), "CN", MBSTRING_UTF8,
				       (const unsigned char *)name, -1, -1, 0) &&
	    X509_REQ_set_pubkey(request, key) && X509_REQ_sign(request, key, EVP_sha256()) &&
	    PEM_write_bio_X509_REQ(bio, request)) {
		length = BIO_get_mem_data(bio, &data);
		text = strndup(data, (size_t)length);
	}
	BIO_free(bio);
	X509_REQ_free(request);
	return text;
}

static char *make_body(const char *token, EVP_PKEY *key, const char *name)
{
	char *request = make_request(key, name);
	json_t *object =
		request ? json_pack("{s:s, s:s}", "token", token, "request", request) : NULL;
	char *body = object ? json_dumps(object, JSON_COMPACT) : NULL;

	json_decref(object);
	free(request);
	return body;
}

static int judge_answer(const struct join *join, CURL *easy, CURLcode code, const char *detail,
			struct tls_error *error)
{
	char text[TLS_ERROR_BYTES];
	long os_error = 0;
	long status = 0;
	int result;

	if (join->stranger)
		return tls_error_set(error, -EKEYREJECTED,
				     "the origin at %s is not the one that the token is from; "
				     "check the address, and take the token from that origin",
				     join->url);
	if (code != CURLE_OK) {
		curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &os_error);
		result = transport_error_of_curl(code, os_error);
		transport_error_text(result, join->url, detail, text, sizeof(text));
		return tls_error_set(error, result, "%s", text);
	}
	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	if (status == 200)
		return 0;
	if (status == 401 || status == 403)
		return tls_error_set(error, -EACCES,
				     "the origin at %s refuses the token; it prints the present one "
				     "when it starts",
				     join->url);
	if (status == 429 || status == 503)
		return tls_error_set(error, -EAGAIN, "the origin at %s is busy; try again later",
				     join->url);
	return tls_error_set(error, -EPROTO,
			     "the origin at %s answers %ld to a join; is it a Leasehold origin?",
			     join->url, status);
}

static int send_request(struct join *join, const char *body, struct tls_error *error)
{
	char detail[CURL_ERROR_SIZE] = "";
	char url[1024];
	struct curl_slist *headers = curl_slist_append(NULL, "content-type: application/json");
	CURL *easy = curl_easy_init();
	CURLcode code = CURLE_OUT_OF_MEMORY;
	int result;

	(void)snprintf(url, sizeof(url), "%s/v1/join", join->url);
	if (easy && headers) {
		curl_easy_setopt(easy, CURLOPT_URL, url);
		curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "https");
		curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
		curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_2TLS);
		curl_easy_setopt(easy, CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_3);
		/* No authority of this machine is asked: verify_chain() decides. */
		curl_easy_setopt(easy, CURLOPT_CAINFO, NULL);
		curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
		curl_easy_setopt(easy, CURLOPT_SSL_CTX_FUNCTION, set_verify);
		curl_easy_setopt(easy, CURLOPT_SSL_CTX_DATA, join);
		curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, JOIN_TIMEOUT_MS);
		curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 0L);
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
		curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
		curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_answer);
		curl_easy_setopt(easy, CURLOPT_WRITEDATA, join);
		curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, detail);
		code = curl_easy_perform(easy);
	}
	result = judge_answer(join, easy, code, detail, error);
	curl_easy_cleanup(easy);
	curl_slist_free_all(headers);
	return result;
}

/* Both certificates of the answer, checked against the token and the key that we made. */
static int read_answer(const struct join *join, EVP_PKEY *key, X509 **ret_host,
		       X509 **ret_authority, struct tls_error *error)
{
	json_t *object = json_loadb(join->answer, join->answer_length, 0, NULL);
	const char *pem = json_string_value(json_object_get(object, "certificate"));
	BIO *bio = pem ? BIO_new_mem_buf(pem, -1) : NULL;
	X509 *host = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
	X509 *authority = host ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
	uint8_t fingerprint[TLS_FINGERPRINT_BYTES];
	bool good;

	good = authority && tls_certificate_fingerprint(authority, fingerprint) &&
	       memcmp(fingerprint, join->token->fingerprint, sizeof(fingerprint)) == 0 &&
	       X509_verify(host, X509_get0_pubkey(authority)) == 1 &&
	       X509_check_private_key(host, key) == 1;
	BIO_free(bio);
	json_decref(object);
	if (good) {
		*ret_host = host;
		*ret_authority = authority;
		return 0;
	}
	X509_free(host);
	X509_free(authority);
	return tls_error_set_openssl(error, -EPROTO,
				     "the origin at %s answers with a certificate that is not ours",
				     join->url);
}

static int keep_answer(const struct join *join, EVP_PKEY *key, const char *directory,
		       struct tls_error *error)
{
	X509 *host = NULL;
	X509 *authority = NULL;
	int lock;
	int result = read_answer(join, key, &host, &authority, error);

	if (result < 0)
		return result;
	lock = tls_files_lock(directory, error);
	result = lock < 0 ? lock : 0;
	if (lock >= 0) {
		/* host.pem comes last: tls_joined() is true only with all three. */
		(void)unlinkat(lock, "host.pem", 0); /* of an earlier join, or not there */
		result = tls_files_write_certificate(directory, "ca.pem", authority, NULL, error);
		if (result == 0)
			result = tls_files_write_key(directory, "host.key", key, error);
		if (result == 0)
			result = tls_files_write_certificate(directory, "host.pem", host, authority,
							     error);
		close(lock);
	}
	X509_free(host);
	X509_free(authority);
	return result;
}

int tls_join(const char *url, const char *token_text, const char *directory, const char *host_name,
	     struct tls_error *error)
{
	struct tls_token token;
	struct join *join;
	EVP_PKEY *key;
	char *body;
	int result;

	if (!tls_token_read(token_text, &token))
		return tls_error_set(error, -EINVAL,
				     "that is not a join token; the origin prints it when it "
				     "starts");
	if (strncmp(url, "https://", 8) != 0)
		return tls_error_set(error, -EINVAL,
				     "cannot join %s: an origin is at https://HOST:PORT", url);
	join = calloc(1, sizeof(*join));
	key = join ? tls_key_make() : NULL;
	body = key ? make_body(token_text, key, host_name) : NULL;
	if (body) {
		join->url = url;
		join->token = &token;
		result = send_request(join, body, error);
		if (result == 0)
			result = keep_answer(join, key, directory, error);
	} else {
		result = tls_error_set_openssl(error, -ENOMEM,
					       "cannot make a key and a signing request for %s",
					       host_name);
	}
	free(body);
	EVP_PKEY_free(key);
	free(join);
	return result;
}
