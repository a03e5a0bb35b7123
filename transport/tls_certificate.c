#include "transport/tls_certificate.h"

#include <arpa/inet.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <time.h>

#define SECONDS_PER_DAY	 (24L * 60 * 60)
/* Clocks differ: a certificate made now must be good on a host whose clock is behind. */
#define BACKDATE_SECONDS (SECONDS_PER_DAY)

EVP_PKEY *tls_key_make(void)
{
	return EVP_EC_gen("P-256");
}

static bool set_serial(X509 *certificate)
{
	BIGNUM *number = BN_new();
	bool made;

	/* RFC 5280 4.1.2.2: positive, at most 20 octets; random, so that no record is kept. */
	made = number && BN_rand(number, 127, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) &&
	       BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate));
	BN_free(number);
	return made;
}

static bool set_names(X509 *certificate, const char *common_name, X509 *issuer)
{
	X509_NAME *name = X509_get_subject_name(certificate);

	return X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8,
					  (const unsigned char *)common_name, -1, -1, 0) &&
	       X509_set_issuer_name(certificate, issuer ? X509_get_subject_name(issuer) : name);
}

static bool add_extension(X509 *certificate, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX context;
	X509_EXTENSION *extension;
	bool added;

	X509V3_set_ctx(&context, issuer ? issuer : certificate, certificate, NULL, NULL, 0);
	extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
	added = extension && X509_add_ext(certificate, extension, -1);
	X509_EXTENSION_free(extension);
	return added;
}

static bool add_extensions(X509 *certificate, enum tls_role role, const char *alternative_names,
			   X509 *issuer)
{
	bool authority = role == TLS_AUTHORITY;
	bool added;

	added = add_extension(certificate, issuer, NID_basic_constraints,
			      authority ? "critical,CA:TRUE,pathlen:0" : "critical,CA:FALSE") &&
		add_extension(certificate, issuer, NID_key_usage,
			      authority ? "critical,keyCertSign,cRLSign"
					: "critical,digitalSignature") &&
		add_extension(certificate, issuer, NID_subject_key_identifier, "hash");
	if (added && !authority)
		added = add_extension(certificate, issuer, NID_ext_key_usage,
				      role == TLS_ORIGIN ? "serverAuth" : "clientAuth") &&
			add_extension(certificate, issuer, NID_authority_key_identifier, "keyid");
	if (added && alternative_names)
		added = add_extension(certificate, issuer, NID_subject_alt_name, alternative_names);
	return added;
}

X509 *tls_certificate_make(enum tls_role role, const char *common_name,
			   const char *alternative_names, EVP_PKEY *key, X509 *issuer,
			   EVP_PKEY *issuer_key)
{
	long days = role == TLS_AUTHORITY ? TLS_AUTHORITY_DAYS : TLS_CERTIFICATE_DAYS;
	X509 *certificate = X509_new();

	if (certificate && X509_set_version(certificate, X509_VERSION_3) &&
	    set_serial(certificate) && set_names(certificate, common_name, issuer) &&
	    X509_gmtime_adj(X509_getm_notBefore(certificate), -BACKDATE_SECONDS) &&
	    X509_time_adj_ex(X509_getm_notAfter(certificate), (int)days, 0, NULL) &&
	    X509_set_pubkey(certificate, key) &&
	    add_extensions(certificate, role, alternative_names, issuer) &&
	    X509_sign(certificate, issuer_key ? issuer_key : key, EVP_sha256()))
		return certificate;
	X509_free(certificate);
	return NULL;
}

bool tls_certificate_names(X509 *certificate, const char *name)
{
	unsigned char address[sizeof(struct in6_addr)];

	if (inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1)
		return X509_check_ip_asc(certificate, name, 0) == 1;
	return X509_check_host(certificate, name, 0, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, NULL) ==
	       1;
}

bool tls_certificate_stands(X509 *certificate, EVP_PKEY *key, X509 *issuer)
{
	time_t then = time(NULL) + TLS_RENEW_DAYS * SECONDS_PER_DAY;
	EVP_PKEY *issuer_key = X509_get0_pubkey(issuer);
	bool stands;

	stands = X509_check_private_key(certificate, key) == 1 && issuer_key &&
		 X509_verify(certificate, issuer_key) == 1 &&
		 X509_cmp_time(X509_get0_notAfter(certificate), &then) > 0;
	ERR_clear_error();
	return stands;
}

bool tls_certificate_fingerprint(X509 *certificate, uint8_t ret_fingerprint[TLS_FINGERPRINT_BYTES])
{
	unsigned length = 0;

	return X509_digest(certificate, EVP_sha256(), ret_fingerprint, &length) == 1 &&
	       length == TLS_FINGERPRINT_BYTES;
}

static bool is_name_character(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '.' || c == '_' || c == '-';
}

bool tls_common_name(const X509_NAME *subject, char *ret_name, size_t size)
{
	int index = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	const ASN1_STRING *text;
	const unsigned char *data;
	size_t length;
	size_t at = 0;

	if (index < 0 || size == 0)
		return false;
	text = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, index));
	data = ASN1_STRING_get0_data(text);
	length = (size_t)ASN1_STRING_length(text);
	for (size_t i = 0; i < length && at < TLS_NAME_BYTES_MAX && at + 1 < size; i++)
		if (is_name_character(data[i]))
			ret_name[at++] = (char)data[i];
	ret_name[at] = 0;
	return at > 0;
}
