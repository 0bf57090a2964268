from pathlib import Path

import pytest
import redis

from plinth.settings import urls


class TestWebURL:
    @pytest.mark.parametrize(
        "url", ["https://id.example.com", "http://[::1]:8080/realm/", "HTTPS://id.example.com:443"]
    )
    def test_web_url_is_accepted(self, url: str) -> None:
        urls.check_web_url(url)

    @pytest.mark.parametrize(
        "url", ["id.example.com", "ftp://id", "https://", "https:///x", "https://id:x", "https://[id"]
    )
    def test_url_that_is_not_a_web_url_is_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"^expected a URL that starts with https://$"):
            urls.check_web_url(url)

    @pytest.mark.parametrize(
        "url", ["https://u:p@id", "https://@id", "https://id?", "https://id?key=1", "https://id#x"]
    )
    def test_web_url_with_more_than_an_address_is_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"without user name, password, query and fragment$"):
            urls.check_web_url(url)

    @pytest.mark.parametrize(
        "url",
        ["https://i d", "https://id/a b", "https://i\nd", "https://id\u00a0", f"https://{'i' * 64}.d", "https://i..d"],
    )
    def test_web_url_with_blanks_or_a_host_that_cannot_be_is_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"with a host name or an address, and without blanks$"):
            urls.check_web_url(url)

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            *(
                (f"http://{host}/x", True)
                for host in ("localhost:1", "127.0.0.1", "127.8.9.1", "[::1]:80", "LOCALHOST", "a.localhost")
            ),
            *((f"http://{host}/x", False) for host in ("example.com", "localhost.example.com", "10.0.0.1", "[::2]")),
        ],
    )
    def test_loopback_url_is_recognised(self, url: str, expected: bool) -> None:
        assert urls.is_loopback(url) is expected


class TestRedisURL:
    @pytest.mark.parametrize(
        "url",
        [
            "redis://cache",
            "rediss://u:p%40ss@[::1]:6380/2",
            "redis://:p@cache/",
            "redis://c/0?protocol=3",
            "unix:///run/r",
        ],
    )
    def test_redis_url_is_accepted_here_and_by_redis_py(self, url: str) -> None:
        urls.check_redis_url(url)
        redis.Redis.from_url(url).close()

    @pytest.mark.parametrize(
        "query",
        ["family=0", "socket_timeout=abc", "max_connections=x", "db=a", "protocol=9", "retry=3", "nonsense", "foo=1"],
    )
    def test_parameter_that_redis_py_cannot_use_is_refused(self, query: str) -> None:
        with pytest.raises(ValueError, match=r"^expected (no )?parameters"):
            urls.check_redis_url(f"redis://user:s3cret@cache/0?{query}")

    def test_tls_parameters_of_a_redis_url_are_checked(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").touch()
        urls.check_redis_url(f"rediss://cache?ssl_cert_reqs=none&ssl_ca_certs={tmp_path / 'ca.pem'}")
        with pytest.raises(ValueError, match=r"^expected a file in ssl_ca_certs"):
            urls.check_redis_url("rediss://cache?ssl_ca_certs=/no/such/file")
        with pytest.raises(ValueError, match=r"^expected parameters"):
            urls.check_redis_url("rediss://cache?ssl_cert_reqs=perhaps")
        with pytest.raises(ValueError, match=r"^expected parameters"):
            urls.check_redis_url("redis://cache?ssl_cert_reqs=none")

    @pytest.mark.parametrize(
        "url",
        ["cache:6379", "http://cache", "redis://", "redis://cache:x", "redis://cache/zero", "redis://:p/w@cache/0"],
    )
    def test_wrong_redis_url_is_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"^expected (a URL that starts with redis|redis)://"):
            urls.check_redis_url(url)

    @pytest.mark.parametrize(
        "url",
        [
            *(
                f"{scheme}://user:s3cret@one:26379/mymaster/0"
                for scheme in (
                    *("redis-sentinel", "rediss-sentinel", "sentinel", "Sentinel+Redis"),
                    *("redis+cluster", "redis-cluster", "rediss+cluster", "rediss-cluster"),
                )
            ),
            "redis://:s3cret@one:6379,two:6379/0",
            "redis://one,two",
            "rediss://user:s3,cret@one:1,two:2?ssl_cert_reqs=none",
        ],
    )
    def test_several_servers_are_refused_by_name(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"Redis Cluster and lists of servers are not supported") as caught:
            urls.check_redis_url(url)
        assert "redis://, rediss:// or unix://" in str(caught.value)
        assert "or redis+sentinel://" in str(caught.value)
        assert "s3" not in str(caught.value)

    def test_comma_in_a_password_is_no_list(self) -> None:
        urls.check_redis_url("redis://user:s3,cret@cache/0")
        urls.check_redis_url("unix://:s3cret@/run/a,b.sock")

    @pytest.mark.parametrize("host", ["a..b", ".cache", "x" * 64])
    def test_host_that_no_resolver_takes_is_refused(self, host: str) -> None:
        with pytest.raises(ValueError, match=r"^expected a host name"):
            urls.check_redis_url(f"redis://{host}:6379")

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("redis://cache:6379/0", "redis://cache:6379/0"),
            ("rediss://user:s3cret@cache", "rediss://user:********@cache"),
            ("redis://:s3@cret@cache", "redis://:********@cache"),
            ("redis://s3cret@cache", "redis://:********@cache"),
            (
                "rediss+sentinel://:s3cret@one:26379,two/main/0?sentinel_password=s3cret",
                "rediss+sentinel://:********@one:26379,two/main/0",
            ),
            ("unix://:s3cret@/run/redis.sock?password=s3cret&db=1", "unix://:********@/run/redis.sock"),
        ],
    )
    def test_password_of_a_redis_url_is_masked(self, url: str, expected: str) -> None:
        assert urls.masked_redis_url(url) == expected

    def test_url_of_upstash_is_understood_by_redis_py(self) -> None:
        client = redis.Redis.from_url(urls.upstash_redis_url("https://x-1.upstash.io", "to/k@en="))
        options = client.connection_pool.connection_kwargs
        client.close()
        assert (options["username"], options["password"], options["port"]) == ("default", "to/k@en=", 6379)
        assert options["host"] == "x-1.upstash.io"
        assert client.connection_pool.connection_class is redis.SSLConnection
