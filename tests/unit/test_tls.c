#include "scratch.h"
#include "unit.h"

#include <errno.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include "transport/tls.h"
#include "transport/tls_certificate.h"
#include "transport/tls_files.h"
#include "transport/tls_token.h"

static char base[SCRATCH_PATH_BYTES];
static int base_fd;
static char origin[SCRATCH_PATH_BYTES + 16];
static char token[TLS_TOKEN_BYTES];

static void set_up(void)
{
	struct tls_error error;

	base_fd = scratch_make(base);
	(void)snprintf(origin, sizeof(origin), "%s/origin", base);
	ck_assert_msg(tls_authority_prepare(origin, NULL, token, &error) == 0, "%s", error.text);
}

static void tear_down(void)
{
	scratch_remove(base, base_fd);
}

static X509 *read_certificate(const char *name)
{
	struct tls_error error;
	X509 *certificate;

	ck_assert_int_eq(tls_files_read_certificate(origin, name, &certificate, &error), 0);
	return certificate;
}

static char *make_request(const char *common_name)
{
	EVP_PKEY *key = tls_key_make();
	X509_REQ *request = X509_REQ_new();
	BIO *bio = BIO_new(BIO_s_mem());
	char *data;
	char *text;
	long length;

	ck_assert(X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(request), "CN",
					     MBSTRING_UTF8, (const unsigned char *)common_name, -1,
					     -1, 0));
	ck_assert(X509_REQ_set_pubkey(request, key));
	ck_assert(X509_REQ_sign(request, key, EVP_sha256()) > 0);
	ck_assert(PEM_write_bio_X509_REQ(bio, request));
	length = BIO_get_mem_data(bio, &data);
	text = strndup(data, (size_t)length);
	BIO_free(bio);
	X509_REQ_free(request);
	EVP_PKEY_free(key);
	return text;
}

static X509 *parse(const char *pem)
{
	BIO *bio = BIO_new_mem_buf(pem, -1);
	X509 *certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL);

	BIO_free(bio);
	ck_assert_ptr_nonnull(certificate);
	return certificate;
}

START_TEST(preparing_twice_changes_nothing)
{
	char again[TLS_TOKEN_BYTES];
	struct tls_error error;
	X509 *before = read_certificate("origin.pem");
	X509 *after;

	ck_assert_int_eq(tls_authority_prepare(origin, NULL, again, &error), 0);
	ck_assert_str_eq(again, token);
	after = read_certificate("origin.pem");
	ck_assert_int_eq(X509_cmp(before, after), 0);
	X509_free(before);
	X509_free(after);
}
END_TEST

START_TEST(all_files_are_private)
{
	static const char *const names[] = { "ca.pem", "ca.key", "origin.pem", "origin.key",
					     "token" };
	char path[SCRATCH_PATH_BYTES + 32];
	struct stat status;

	ck_assert_int_eq(stat(origin, &status), 0);
	ck_assert_uint_eq(status.st_mode & 07777, 0700);
	for (unsigned i = 0; i < 5; i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", origin, names[i]);
		ck_assert_int_eq(stat(path, &status), 0);
		ck_assert_uint_eq(status.st_mode & 07777, 0600);
	}
}
END_TEST

START_TEST(a_new_name_makes_a_new_certificate_by_the_same_authority)
{
	static const char *const names[] = { "files.example.org", "192.0.2.7", NULL };
	char again[TLS_TOKEN_BYTES];
	struct tls_error error;
	X509 *certificate = read_certificate("origin.pem");

	ck_assert(tls_certificate_names(certificate, "localhost"));
	ck_assert(tls_certificate_names(certificate, "127.0.0.1"));
	ck_assert(tls_certificate_names(certificate, "::1"));
	ck_assert(!tls_certificate_names(certificate, "files.example.org"));
	X509_free(certificate);
	ck_assert_int_eq(tls_authority_prepare(origin, names, again, &error), 0);
	ck_assert_str_eq(again, token);
	certificate = read_certificate("origin.pem");
	ck_assert(tls_certificate_names(certificate, "files.example.org"));
	ck_assert(tls_certificate_names(certificate, "192.0.2.7"));
	X509_free(certificate);
}
END_TEST

START_TEST(a_name_that_is_none_is_refused)
{
	static const char *const names[] = { "a,DNS:evil", NULL };
	char again[TLS_TOKEN_BYTES];
	struct tls_error error;

	ck_assert_int_eq(tls_authority_prepare(origin, names, again, &error), -EINVAL);
}
END_TEST

START_TEST(a_host_is_signed_for_hosts_only)
{
	char *request = make_request("no de/7\xc3\xa4.x_y-z");
	char name[TLS_NAME_BYTES_MAX + 1];
	struct tls_error error;
	char *pem = NULL;
	X509 *host;

	ck_assert_int_eq(tls_sign(origin, token, request, &pem, &error), 0);
	host = parse(pem);
	ck_assert(tls_common_name(X509_get_subject_name(host), name, sizeof(name)));
	ck_assert_str_eq(name, "node7.x_y-z");
	ck_assert_int_eq(X509_check_purpose(host, X509_PURPOSE_SSL_CLIENT, 0), 1);
	ck_assert_int_eq(X509_check_purpose(host, X509_PURPOSE_SSL_SERVER, 0), 0);
	ck_assert_int_eq(X509_check_ca(host), 0);
	X509_free(host);
	free(pem);
	free(request);
}
END_TEST

START_TEST(a_wrong_token_signs_nothing)
{
	char *request = make_request("node");
	char wrong[TLS_TOKEN_BYTES];
	struct tls_error error;
	char *pem = NULL;

	memcpy(wrong, token, sizeof(wrong));
	wrong[3] = wrong[3] == 'A' ? 'B' : 'A';
	ck_assert_int_eq(tls_sign(origin, wrong, request, &pem, &error), -EACCES);
	ck_assert_int_eq(tls_sign(origin, "", request, &pem, &error), -EACCES);
	wrong[10] = 0;
	ck_assert_int_eq(tls_sign(origin, wrong, request, &pem, &error), -EACCES);
	ck_assert_ptr_null(pem);
	free(request);
}
END_TEST

START_TEST(what_is_no_request_is_not_signed)
{
	char *request = make_request("node");
	char *nameless = make_request("\xc3\xa4/");
	struct tls_error error;
	char *pem = NULL;

	ck_assert_int_eq(tls_sign(origin, token, "", &pem, &error), -EINVAL);
	ck_assert_int_eq(tls_sign(origin, token, nameless, &pem, &error), -EINVAL);
	/* Its signature no longer fits. */
	request[200] = request[200] == 'A' ? 'B' : 'A';
	ck_assert_int_eq(tls_sign(origin, token, request, &pem, &error), -EINVAL);
	ck_assert_ptr_null(pem);
	free(request);
	free(nameless);
}
END_TEST

START_TEST(an_old_or_foreign_certificate_does_not_stand)
{
	EVP_PKEY *ours = tls_key_make();
	EVP_PKEY *other = tls_key_make();
	X509 *authority = tls_certificate_make(TLS_AUTHORITY, "a", NULL, ours, NULL, NULL);
	X509 *stranger = tls_certificate_make(TLS_AUTHORITY, "a", NULL, other, NULL, NULL);
	EVP_PKEY *key = tls_key_make();
	X509 *certificate = tls_certificate_make(TLS_ORIGIN, "o", "DNS:x", key, authority, ours);

	ck_assert(tls_certificate_stands(certificate, key, authority));
	ck_assert(!tls_certificate_stands(certificate, other, authority));
	ck_assert(!tls_certificate_stands(certificate, key, stranger));
	/* Near its end. */
	ck_assert(X509_gmtime_adj(X509_getm_notAfter(certificate), 60) != NULL);
	ck_assert(X509_sign(certificate, ours, EVP_sha256()) > 0);
	ck_assert(!tls_certificate_stands(certificate, key, authority));
	X509_free(certificate);
	X509_free(authority);
	X509_free(stranger);
	EVP_PKEY_free(key);
	EVP_PKEY_free(ours);
	EVP_PKEY_free(other);
}
END_TEST

START_TEST(a_broken_authority_is_not_replaced)
{
	char again[TLS_TOKEN_BYTES];
	struct tls_error error;

	ck_assert_int_eq(tls_files_write(origin, "ca.key", "x", 1, &error), 0);
	ck_assert_int_eq(tls_authority_prepare(origin, NULL, again, &error), -EBADMSG);
	ck_assert_ptr_nonnull(strstr(error.text, "ca.key"));
}
END_TEST

START_TEST(a_token_is_read_as_it_was_written)
{
	struct tls_token a;
	struct tls_token b;
	char text[TLS_TOKEN_BYTES];

	ck_assert(tls_token_read(token, &a));
	tls_token_write(&a, text);
	ck_assert_str_eq(text, token);
	ck_assert(tls_token_read(text, &b));
	ck_assert(tls_token_equal(&a, &b));
	ck_assert(!tls_token_read("", &b));
	ck_assert(!tls_token_read("a.b", &b));
	text[strlen(text) - 1] = 0;
	ck_assert(!tls_token_read(text, &b));
}
END_TEST

START_TEST(nobody_joins_where_nobody_is)
{
	struct tls_error error;
	char host[SCRATCH_PATH_BYTES + 16];

	(void)snprintf(host, sizeof(host), "%s/host", base);
	ck_assert_int_eq(tls_join("https://127.0.0.1:1", token, host, "node", &error),
			 -ECONNREFUSED);
	ck_assert_int_eq(tls_join("https://127.0.0.1:1", "nonsense", host, "node", &error),
			 -EINVAL);
	ck_assert_int_eq(tls_join("http://127.0.0.1:1", token, host, "node", &error), -EINVAL);
	ck_assert(!tls_joined(host));
}
END_TEST

static TCase *tls_case(void)
{
	TCase *tcase = tcase_create("tls");

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, preparing_twice_changes_nothing);
	tcase_add_test(tcase, all_files_are_private);
	tcase_add_test(tcase, a_new_name_makes_a_new_certificate_by_the_same_authority);
	tcase_add_test(tcase, a_name_that_is_none_is_refused);
	tcase_add_test(tcase, a_host_is_signed_for_hosts_only);
	tcase_add_test(tcase, a_wrong_token_signs_nothing);
	tcase_add_test(tcase, what_is_no_request_is_not_signed);
	tcase_add_test(tcase, an_old_or_foreign_certificate_does_not_stand);
	tcase_add_test(tcase, a_broken_authority_is_not_replaced);
	tcase_add_test(tcase, a_token_is_read_as_it_was_written);
	tcase_add_test(tcase, nobody_joins_where_nobody_is);
	return tcase;
}

UNIT_MAIN("tls", tls_case)
