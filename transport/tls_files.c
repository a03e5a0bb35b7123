#include "transport/tls_files.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

int tls_error_set(struct tls_error *e, int error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	(void)vsnprintf(e->text, sizeof(e->text), format, arguments);
	va_end(arguments);
	return error;
}

int tls_error_set_openssl(struct tls_error *e, int error, const char *format, ...)
{
	unsigned long code = ERR_peek_last_error();
	const char *reason = code ? ERR_reason_error_string(code) : NULL;
	va_list arguments;
	size_t at;

	va_start(arguments, format);
	(void)vsnprintf(e->text, sizeof(e->text), format, arguments);
	va_end(arguments);
	at = strlen(e->text);
	if (reason)
		(void)snprintf(e->text + at, sizeof(e->text) - at, " (%s)", reason);
	ERR_clear_error();
	return error;
}

int tls_files_lock(const char *directory, struct tls_error *error)
{
	int fd;
	int saved;

	if (mkdir(directory, 0700) < 0 && errno != EEXIST)
		return tls_error_set(error, -errno, "cannot make %s: %s; make its parent first",
				     directory, strerror(errno));
	fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return tls_error_set(error, -errno, "cannot open %s: %s", directory,
				     strerror(errno));
	if (fchmod(fd, 0700) < 0 || flock(fd, LOCK_EX) < 0) {
		saved = errno;
		close(fd);
		return tls_error_set(error, -saved, "cannot lock %s: %s; who owns it?", directory,
				     strerror(saved));
	}
	return fd;
}

static int open_in(const char *directory, const char *name, int flags)
{
	int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int saved;
	int fd;

	if (dir < 0)
		return -errno;
	fd = openat(dir, name, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
	saved = errno;
	close(dir);
	return fd < 0 ? -saved : fd;
}

/* Reads all of `fd`, at most TLS_FILE_BYTES_MAX. */
static int read_all(int fd, char **ret_text, size_t *ret_length)
{
	char *text = malloc(TLS_FILE_BYTES_MAX + 1);
	size_t at = 0;
	ssize_t n;

	if (!text)
		return -ENOMEM;
	while ((n = read(fd, text + at, TLS_FILE_BYTES_MAX + 1 - at)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 || (at += (size_t)n) > TLS_FILE_BYTES_MAX) {
			int error = n < 0 ? -errno : -EFBIG;

			free(text);
			return error;
		}
	}
	text[at] = 0;
	*ret_text = text;
	*ret_length = at;
	return 0;
}

int tls_files_read(const char *directory, const char *name, char **ret_text, size_t *ret_length,
		   struct tls_error *error)
{
	int fd = open_in(directory, name, O_RDONLY);
	int result = fd;

	if (fd >= 0) {
		result = read_all(fd, ret_text, ret_length);
		close(fd);
	}
	if (result < 0)
		return tls_error_set(error, result, "cannot read %s/%s: %s", directory, name,
				     strerror(-result));
	return 0;
}

static int write_all(int fd, const char *data, size_t length)
{
	while (length > 0) {
		ssize_t n = write(fd, data, length);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		length -= (size_t)n;
	}
	return fsync(fd) < 0 ? -errno : 0;
}

static int write_and_rename(int dir, const char *name, const void *data, size_t length)
{
	char temporary[80];
	int result;
	int fd;

	(void)snprintf(temporary, sizeof(temporary), ".%.64s.new", name);
	(void)unlinkat(dir, temporary, 0); /* left by a process that died; we hold the lock */
	fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	result = write_all(fd, data, length);
	if (close(fd) < 0 && result == 0)
		result = -errno;
	if (result == 0 && renameat(dir, temporary, dir, name) < 0)
		result = -errno;
	if (result == 0 && fsync(dir) < 0)
		result = -errno;
	if (result < 0)
		(void)unlinkat(dir, temporary, 0); /* the write's own error is what counts */
	return result;
}

int tls_files_write(const char *directory, const char *name, const void *data, size_t length,
		    struct tls_error *error)
{
	int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int result = dir < 0 ? -errno : 0;

	if (dir >= 0) {
		result = write_and_rename(dir, name, data, length);
		close(dir);
	}
	if (result < 0)
		return tls_error_set(error, result, "cannot write %s/%s: %s", directory, name,
				     strerror(-result));
	return 0;
}

bool tls_files_exist(const char *directory, const char *name)
{
	int fd = open_in(directory, name, O_RDONLY);

	if (fd < 0)
		return false;
	close(fd);
	return true;
}

int tls_files_read_certificate(const char *directory, const char *name, X509 **ret_certificate,
			       struct tls_error *error)
{
	char *text = NULL;
	size_t length;
	X509 *certificate;
	BIO *bio;
	int result = tls_files_read(directory, name, &text, &length, error);

	if (result < 0)
		return result;
	bio = BIO_new_mem_buf(text, (int)length);
	certificate = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
	BIO_free(bio);
	free(text);
	if (!certificate)
		return tls_error_set_openssl(error, -EBADMSG,
					     "%s/%s is not a certificate; remove it for a new one",
					     directory, name);
	*ret_certificate = certificate;
	return 0;
}

int tls_files_read_key(const char *directory, const char *name, EVP_PKEY **ret_key,
		       struct tls_error *error)
{
	char *text = NULL;
	size_t length;
	EVP_PKEY *key;
	BIO *bio;
	int result = tls_files_read(directory, name, &text, &length, error);

	if (result < 0)
		return result;
	bio = BIO_new_mem_buf(text, (int)length);
	key = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL) : NULL;
	BIO_free(bio);
	OPENSSL_cleanse(text, length);
	free(text);
	if (!key)
		return tls_error_set_openssl(error, -EBADMSG,
					     "%s/%s is not a private key; remove it for a new one",
					     directory, name);
	*ret_key = key;
	return 0;
}

int tls_files_write_key(const char *directory, const char *name, EVP_PKEY *key,
			struct tls_error *error)
{
	BIO *bio = BIO_new(BIO_s_secmem());
	char *data;
	long length;
	int result;

	if (!bio || !PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL)) {
		BIO_free(bio);
		return tls_error_set_openssl(error, -ENOMEM, "cannot encode the key for %s/%s",
					     directory, name);
	}
	length = BIO_get_mem_data(bio, &data);
	result = tls_files_write(directory, name, data, (size_t)length, error);
	BIO_free(bio);
	return result;
}

char *tls_certificate_text(X509 *certificate, X509 *issuer)
{
	BIO *bio = BIO_new(BIO_s_mem());
	char *text = NULL;
	char *data;
	long length;

	if (bio && PEM_write_bio_X509(bio, certificate) &&
	    (!issuer || PEM_write_bio_X509(bio, issuer))) {
		length = BIO_get_mem_data(bio, &data);
		text = strndup(data, (size_t)length);
	}
	BIO_free(bio);
	ERR_clear_error();
	return text;
}

int tls_files_write_certificate(const char *directory, const char *name, X509 *certificate,
				X509 *issuer, struct tls_error *error)
{
	char *text = tls_certificate_text(certificate, issuer);
	int result;

	if (!text)
		return tls_error_set(error, -ENOMEM, "out of memory for %s/%s", directory, name);
	result = tls_files_write(directory, name, text, strlen(text), error);
	free(text);
	return result;
}
